"""A small setup in which plugins are checked, prepared once a process and device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup

SETUP = Setup(
    dataset="synthetic",
    dataset_parameters={"individuals": 400},
    image_size=32,
    properties=("gender", "glasses"),
    main_task="hat+dark_hair+looking_left",
    model_parameters={"width": 4},
    rounds=2,
    victim_share=0.2,
)
"""Prepared in seconds: 8 classes, 80 victims."""


def prepared_with(changes: Mapping[str, Any], device: str) -> EvaluationContext:
    """Return the small setup prepared, with some of its fields changed.

    Raises:
        UsageError: a field does not fit.
    """
    changed = Setup.model_validate({**SETUP.model_dump(), **changes})
    return _prepared(changed.model_dump_json(), device)


@cache
def _prepared(setup: str, device: str) -> EvaluationContext:
    return prepare(Setup.model_validate_json(setup), None, device, lambda _: None)


def devices() -> list[str]:
    """Return the devices that PyTorch can compute on here."""
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
