"""Defenses, one file each: changes to clients' updates that reduce leakage."""
