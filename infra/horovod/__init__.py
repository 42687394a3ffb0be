"""Horovod as this project builds it: its published source, one small patch, one wheel per machine and version, kept in a cache."""
