"""Files -> rows: folders, JSON, CSV, Parquet, archives, annotations. No torch."""
