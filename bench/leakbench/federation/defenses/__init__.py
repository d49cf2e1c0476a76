"""Defenses: what clients do so that an update tells less."""
