"""Augmentation: policies as data, and what applies them to pictures and to rows of tables. ``docs/augmentation.md`` is for people."""
