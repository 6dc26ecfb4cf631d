"""Runs: each recipe is one readable file that combines the library and the corpora."""
