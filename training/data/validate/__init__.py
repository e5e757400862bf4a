"""What a check finds in a dataset, with and without the model."""
