"""Seconds until one victim's images, or features, are as good as asked.

The fewest steps of a schedule run to its end that reach the quality, times the time of a step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from engines import ENGINES, batches, built, work
from matrix import pytest_generate_tests  # noqa: F401
from torch import Tensor
from torch.nn.functional import cosine_similarity

from leakbench.base.choices import Compiling
from leakbench.federation.shared_model import SharedModel, deep_features
from leakbench.metrics.image_metrics import psnr

BUDGETS = (25, 50, 100, 200, 400, 800, 1600)
VICTIMS = {1: 4, 8: 2}
TARGETS = {"PSNR": 20.0, "feature cosine": 0.99}


class Measurement(NamedTuple):
    """An attack whose qualities are to be reached."""

    batch_size: int
    engine: str
    attack: str


def measurements(full: bool) -> list[Measurement]:
    """Return what is measured, in this order."""
    engines = [(engine, "IG") for engine in ENGINES]
    engines += [("leakbench", attack) for attack in ("Proposed", "Proposed, L-BFGS")]
    if not full:
        return [Measurement(1, "leakbench", "Proposed")]
    return [Measurement(batch_size, *engine) for batch_size in VICTIMS for engine in engines]


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
    batch_size, engine, attack = measurement
    victims = batches(VICTIMS[batch_size], batch_size, 32)
    model, truth = built("small_cnn", 32), torch.stack([images for images, _ in victims])

    def reach() -> dict[str, dict[str, Any]]:
        latest: dict[str, dict[str, Any]] = {}
        for budget in BUDGETS if full else BUDGETS[:1]:
            done = ENGINES[engine](work(attack, model, victims, budget, compiling))
            for quality, target in TARGETS.items():
                if quality in latest and latest[quality]["reached"]:
                    continue
                found = quality_of(quality, model, done.images, truth)
                latest[quality] = {
                    "steps": budget,
                    "seconds": done.step * budget / 1e3,
                    "found": found,
                    "reached": found >= target,
                }
            if all(row["reached"] for row in latest.values()):
                break
        return latest

    latest = benchmark.pedantic(reach, rounds=1)
    assert set(latest) == set(TARGETS)
    assert all(row["seconds"] > 0 for row in latest.values())
    benchmark.extra_info |= {"kind": "quality", **measurement._asdict(), "qualities": latest}
