"""One base model: found, read, loaded, quantized, its towers named."""
