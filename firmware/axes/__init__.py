"""Z axes: one driver a file, its name is its key, `open_axis` opens it. Drivers never import each other."""
