"""Strategies: one file each, its name is its key; `plan` decides, `TASK` is the kind of model it asks, "" for none."""
