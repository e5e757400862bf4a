"""Dataset formats -> Examples: folders, JSONL, CSV and zips that can't lead out of themselves. No torch."""
