"""Tasks: what a model's numbers mean; one file each, its name is the manifest's `task`."""
