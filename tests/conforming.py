"""Running one rule of the conformance suite on one plugin, as a test."""

from __future__ import annotations

import pytest

from leakbench.conformance.check import Check, Trial, outcome_of
from leakbench.conformance.setting import devices

ON_EVERY_DEVICE = pytest.mark.parametrize("device", devices())
"""One test for each device of this machine."""


def assert_kept(check: Check, trial: Trial) -> None:
    outcome = outcome_of(check, trial)
    if outcome.unchecked:
        pytest.skip(outcome.unchecked)
    assert not outcome.finding, outcome.finding
