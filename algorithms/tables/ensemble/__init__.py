"""Ensembles for tables: bagged members of several kinds, weighted by their out-of-fold predictions."""
