"""Runtimes: one file each; `missing()` says what is not installed, `load(bundle, threads)` gives a Runtime."""
