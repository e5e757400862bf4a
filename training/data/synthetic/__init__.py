"""The sample datasets, drawn from a seed. No torch."""
