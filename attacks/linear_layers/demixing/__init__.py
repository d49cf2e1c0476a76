"""Individuals' exact features from the gradient of a classifier's layers; begin at `search`."""
