"""Shared models, one file each."""
