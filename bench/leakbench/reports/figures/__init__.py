"""Figures: one module each, and their shared parts."""
