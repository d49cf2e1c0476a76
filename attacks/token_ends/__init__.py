"""Transformers that classify by one token."""
