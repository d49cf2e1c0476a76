"""Quotient, an attack for leakbench."""
