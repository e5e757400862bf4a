"""How much memory a run takes, estimated from its settings."""
