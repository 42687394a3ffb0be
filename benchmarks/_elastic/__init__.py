"""What the ranks of ``benchmarks/elastic.py`` run."""
