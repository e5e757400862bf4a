"""Examples -> batches: the collator, samplers, and what is computed once for several rows."""
