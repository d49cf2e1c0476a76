"""Running one rule of the conformance suite on one plugin, as a test."""

from __future__ import annotations

import pytest

from leakbench.conformance.check import Check, Trial, outcome_of
from leakbench.conformance.setting import devices

ON_EVERY_DEVICE = pytest.mark.parametrize("device", devices())
"""One test for each device of this machine."""


ALIKE = {"mobilenet_v2", "resnet50", "vit_b_16"}
"""Large models of which a smaller one has the same parts: tried in the nightly run."""


DEEP = {"efficientnet_lite0", "mobilefacenet", "mobilenet_v3_small", "resnet18", "vit_small"}
"""Large models of other parts, which are tried every time by the rules that parts may break."""


WHATEVER_THE_PARTS = {"starts from the seed", "can be stored"}
"""Rules that build a model again and again, and that small models try every time."""


def model_marks(name: str, check: Check) -> list[pytest.MarkDecorator]:
    """The marks of a model's check."""
    long = name in ALIKE or (name in DEEP and check.name in WHATEVER_THE_PARTS)
    return [pytest.mark.nightly] if long else []


def assert_kept(check: Check, trial: Trial) -> None:
    outcome = outcome_of(check, trial)
    if outcome.unchecked:
        pytest.skip(outcome.unchecked)
    assert not outcome.finding, outcome.finding
