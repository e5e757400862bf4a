"""What a person sees: the page reads runs and events and holds no truth of its own."""
