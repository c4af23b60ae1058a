"""Strategies: one file each, its name is its key; `plan` decides, `NEEDS_MODEL` says whether it asks a network."""
