"""Rows -> examples: which column means what, in every layout. No torch."""
