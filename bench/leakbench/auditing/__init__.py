"""The audit of a user's own model: the harness with another source of model, updates and data."""
