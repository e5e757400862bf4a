"""An endpoint that other programs ask, as they ask OpenAI's: base and adapters, on one engine. No torch."""
