"""Pretrained networks as shared models, and where their weights come from."""
