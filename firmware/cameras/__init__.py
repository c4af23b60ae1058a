"""Cameras: one driver a file, its name is its key, `open_camera` opens it; none imports another."""
