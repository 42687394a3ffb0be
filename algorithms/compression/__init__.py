"""Smaller and faster models: which recipes are tried, how each is made, what it costs, and which is kept."""
