"""The other sides of benchmarks/training.py: scripts as a user would write them."""
