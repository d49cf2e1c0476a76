"""Sweeps: many cells, the work that they share, and the workers that do both."""
