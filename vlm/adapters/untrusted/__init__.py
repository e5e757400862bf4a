"""Adapters from elsewhere: files, options and tensors are checked before anything is loaded."""
