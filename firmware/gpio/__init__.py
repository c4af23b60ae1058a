"""GPIO libraries: one a file, its name is its key, `open_pins` opens lines; see firmware/pins.py."""
