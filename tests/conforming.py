"""Running one rule of the conformance suite on one plugin, as a test."""

from __future__ import annotations

import pytest

from leakbench.conformance.check import Check, Trial, outcome_of
from leakbench.conformance.setting import devices

ON_EVERY_DEVICE = pytest.mark.parametrize("device", devices())
"""One test for each device of this machine."""


ALIKE = {"mobilenet_v2", "resnet50", "vit_b_16"}
"""Large models of which a smaller one has the same parts: tried in the nightly run."""


def model_marks(name: str) -> list[pytest.MarkDecorator]:
    """The marks of a model's checks."""
    return [pytest.mark.nightly] if name in ALIKE else []


def assert_kept(check: Check, trial: Trial) -> None:
    outcome = outcome_of(check, trial)
    if outcome.unchecked:
        pytest.skip(outcome.unchecked)
    assert not outcome.finding, outcome.finding
