"""Gradient-based attacks, one file each, and the engine that they share."""
