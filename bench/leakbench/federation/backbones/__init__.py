"""Pretrained networks as shared models: input, chain of stages, head, and what clients train."""
