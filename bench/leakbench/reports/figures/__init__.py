"""Figures: one module each, and what they share."""
