"""What a run shows, on every tab."""
