"""Federated learning: shared models, clients, their updates, defenses and training."""
