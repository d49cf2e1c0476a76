"""Drawn individuals for the examples: a federated model's clients, and people set aside."""

from __future__ import annotations

import torch

from bench.audit import People
from bench.plugins import build
from bench.registry import DATASETS

PROPERTIES = ("gender", "glasses")


def drawn_people(count: int, first: int = 0) -> People:
    """Drawn faces of 32 px, one of each person, with two properties; the main task is a hat.

    Args:
        first: people before this one are left out.
    """
    dataset = build(DATASETS, "synthetic", {"individuals": first + count, "images_per_identity": 1})
    individuals = dataset.load(None, 32)
    rows = slice(first, first + count)
    return People(
        images=torch.from_numpy(individuals.images[rows].copy()).float() / 255,
        labels=torch.from_numpy(individuals.attribute("hat")[rows]).long(),
        identities=torch.from_numpy(individuals.identities[rows].copy()),
        properties={
            name: torch.from_numpy(individuals.attribute(name)[rows]) for name in PROPERTIES
        },
        names=[f"person {row}" for row in range(first, first + count)],
    )
