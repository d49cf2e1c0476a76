"""A small model, and synthetic faces for its clients and for D_aux, which the examples share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leakbench import LabelledImages
from leakbench.base.plugins import build
from leakbench.base.registry import DATASETS

PROPERTIES = ("gender", "glasses")


class Net(nn.Module):
    """Classifies faces of 32 px by whether they wear a hat."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(4),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def synthetic_people(count: int, first: int = 0) -> LabelledImages:
    """Return synthetic faces, each of a different person, with two properties.

    The main-task class is whether the person wears a hat.

    Args:
        first: number of the first person.
    """
    dataset = build(DATASETS, "synthetic", {"individuals": first + count, "images_per_identity": 1})
    faces = dataset.load(None, 32)
    rows = slice(first, first + count)
    return LabelledImages(
        images=torch.from_numpy(faces.images[rows].copy()).float() / 255,
        labels=torch.from_numpy(faces.attribute("hat")[rows]).long(),
        identities=torch.from_numpy(faces.identities[rows].copy()),
        properties={name: torch.from_numpy(faces.attribute(name)[rows]) for name in PROPERTIES},
        names=[f"person {row}" for row in range(first, first + count)],
    )
