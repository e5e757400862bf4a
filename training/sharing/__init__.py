"""What leaves a run: files to take away, and the way to the Hub and back. No torch."""
