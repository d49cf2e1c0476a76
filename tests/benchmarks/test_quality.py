"""Seconds until one victim's images, or features, are as good as asked.

The fewest steps of a schedule run to its end that reach the quality, times the time of a step.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from engines import ENGINES, batches, built, work
from matrix import pytest_generate_tests  # noqa: F401
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bench.image_metrics import psnr
from bench.models import SharedModel, deep_features
from bench.threat import Compiling

BUDGETS = (25, 50, 100, 200, 400, 800, 1600)
VICTIMS = {1: 4, 8: 2}
TARGETS = {"PSNR": 20.0, "feature cosine": 0.99}


class Measurement(NamedTuple):
    """A quality to reach."""

    quality: str
    batch_size: int
    engine: str
    attack: str


def measurements(full: bool) -> list[Measurement]:
    """Return what is measured, in this order."""
    engines = [(engine, "IG") for engine in ENGINES]
    engines += [("leakbench", attack) for attack in ("Proposed", "Proposed, L-BFGS")]
    if not full:
        return [Measurement("PSNR", 1, "leakbench", "Proposed")]
    return [
        Measurement(quality, batch_size, *engine)
        for quality, batch_size, engine in product(TARGETS, VICTIMS, engines)
    ]


def quality_of(quality: str, model: SharedModel, images: Tensor, truth: Tensor) -> float:
    """Return the median over individuals, each compared with its own dummy."""
    found, true = images.flatten(0, 1).clamp(0, 1), truth.flatten(0, 1)
    if quality == "PSNR":
        return psnr(found, true).median().item()
    cosines = cosine_similarity(deep_features(model, found), deep_features(model, true))
    return cosines.median().item()


def test_quality(
    measurement: Measurement, benchmark: Any, full: bool, compiling: Compiling
) -> None:
    quality, batch_size, engine, attack = measurement
    victims = batches(VICTIMS[batch_size], batch_size, 32)
    model, truth = built("small_cnn", 32), torch.stack([images for images, _ in victims])

    def reach() -> tuple[int, float, float]:
        for budget in BUDGETS if full else BUDGETS[:1]:
            done = ENGINES[engine](work(attack, model, victims, budget, compiling))
            found = quality_of(quality, model, done.images, truth)
            if found >= TARGETS[quality]:
                break
        return budget, done.step * budget / 1e3, found

    steps, seconds, found = benchmark.pedantic(reach, rounds=1)
    assert seconds > 0
    benchmark.extra_info |= {
        "kind": "quality",
        **measurement._asdict(),
        "steps": steps,
        "seconds": seconds,
        "found": found,
        "reached": found >= TARGETS[quality],
    }
