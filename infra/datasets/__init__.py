"""Immutable, content-addressed data sets: Parquet shards and a JSON card."""
