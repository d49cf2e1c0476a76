"""Every registered plugin keeps every rule of the conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conforming import ON_EVERY_DEVICE, assert_kept, model_marks
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check
from leakbench.conformance.datasets import DATASET_CHECKS, DatasetTrial
from leakbench.conformance.declarations import DECLARATIONS
from leakbench.conformance.defenses import DEFENSE_CHECKS, DefenseTrial
from leakbench.conformance.models import MODEL_CHECKS, ModelTrial

PARAMETERS: dict[str, dict[str, Any]] = {
    "cub": {"labels": "class"},  # It needs no more than the part that is usually present.
    "synthetic": {"individuals": 200},  # By default it draws many times as many.
}
"""Parameters with which a data set is tried, where not those of its example."""

OF_FILES = [name for name in DATASETS.names() if DATASETS.get(name).folder]

ABOUT_FOLDER = "refuses an empty folder in one sentence"

CHECKS_WITHOUT_FILES = [
    check
    for check in DATASET_CHECKS
    if check in DECLARATIONS or check.name in ("describes itself", ABOUT_FOLDER)
]

EMBEDDED_CHECKS = [check for check in DATASET_CHECKS if check.name != ABOUT_FOLDER]


def each(names: Sequence[str], checks: Sequence[Check]) -> pytest.MarkDecorator:
    """Every plugin with every check."""
    pairs = [(name, check) for name in names for check in checks]
    return pytest.mark.parametrize(("name", "check"), pairs, ids=str)


@ON_EVERY_DEVICE
@each(ATTACKS.names(), ATTACK_CHECKS)
def test_every_attack_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, AttackTrial(name, device=device))


@ON_EVERY_DEVICE
@each(DEFENSES.names(), DEFENSE_CHECKS)
def test_every_defense_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, DefenseTrial(name, device=device))


@ON_EVERY_DEVICE
@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, marks=model_marks(name, check))
        for name in MODELS.names()
        for check in MODEL_CHECKS
    ],
    ids=str,
)
def test_every_model_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, ModelTrial(name, device=device))


@each([name for name in DATASETS.names() if not DATASETS.get(name).folder], EMBEDDED_CHECKS)
def test_every_embedded_data_set_keeps_every_rule(name: str, check: Check) -> None:
    assert_kept(check, DatasetTrial(name, parameters=PARAMETERS.get(name, {})))


@each(OF_FILES, CHECKS_WITHOUT_FILES)
def test_every_data_set_keeps_every_rule_that_needs_no_files(name: str, check: Check) -> None:
    assert_kept(check, DatasetTrial(name))


@cache
def present(name: str, data_root: Path) -> DatasetTrial:
    """A data set on trial, loaded once for all rules that do not load it themselves."""
    return DatasetTrial(name, data_root=data_root, parameters=PARAMETERS.get(name, {}))


@pytest.mark.slow
@pytest.mark.real_data
@each(OF_FILES, [check for check in DATASET_CHECKS if check not in CHECKS_WITHOUT_FILES])
def test_every_data_set_that_is_present_keeps_the_other_rules(
    name: str, check: Check, data_root: Path
) -> None:
    assert_kept(check, present(name, data_root))
