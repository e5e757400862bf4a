"""Examples -> batches, and what their rows share."""
