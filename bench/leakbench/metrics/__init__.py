"""Metrics: their catalogue, how they are computed, and their bootstrap intervals."""
