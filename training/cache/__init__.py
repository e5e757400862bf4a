"""What is computed once and kept on disk: image features and encoded text."""
