"""Vision-language models: loading, adapters, prompts and inference. Importing this imports nothing heavy."""
