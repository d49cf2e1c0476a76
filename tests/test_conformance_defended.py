"""Attacks answer for updates that are defended, whether they know the defense or not.

Three attacks of different kinds run under every defense, and every attack under a composition of
defenses. The whole matrix runs nightly: `tox -e nightly`.
"""

from __future__ import annotations

import pytest

from conforming import ON_EVERY_DEVICE, assert_kept
from leakbench.base.registry import ATTACKS
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.check import Check
from leakbench.conformance.defended import checks_under_defenses

THREE_KINDS = ("ig", "newton_demixing", "ul")
"""An attack by gradient matching, one that solves for the inputs of a linear layer, and one that
learns to read updates."""


def every_pair() -> list[object]:
    """Every attack with every defense; what the default run leaves out is marked `nightly`."""
    return [
        pytest.param(
            name,
            check,
            id=f"{name}-{check}",
            marks=() if is_in_default_run(name, check) else pytest.mark.nightly,
        )
        for name in ATTACKS.names()
        for check in checks_under_defenses(AttackTrial(name))
    ]


def is_in_default_run(name: str, check: Check) -> bool:
    return name in THREE_KINDS or check.name.startswith("under composed,")


@ON_EVERY_DEVICE
@pytest.mark.parametrize(("name", "check"), every_pair())
def test_an_attack_answers_under_a_defense(name: str, check: Check, device: str) -> None:
    assert_kept(check, AttackTrial(name, device=device))


def test_the_three_kinds_are_attacks_of_this_project() -> None:
    assert set(THREE_KINDS) <= set(ATTACKS.own())
