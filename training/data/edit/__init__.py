"""Changes to a dataset: versions, labels, uploads, exports. No torch."""
