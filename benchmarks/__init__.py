"""Measurements: a table for people, a last line of JSON. RESULTS.md has them with date and machine."""
