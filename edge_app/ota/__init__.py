"""Models over the air: what a repository offers, what a board makes of it, what it remembers; see updates.py."""
