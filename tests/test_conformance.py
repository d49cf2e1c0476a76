"""Every registered plugin keeps every rule of the conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leakbench.base.errors import UsageError
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check, Trial, outcome_of
from leakbench.conformance.datasets import DATASET_CHECKS, DatasetTrial
from leakbench.conformance.defended import checks_under_defenses
from leakbench.conformance.defenses import DEFENSE_CHECKS, DefenseTrial
from leakbench.conformance.models import MODEL_CHECKS, ModelTrial
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.validation import check_results

ON_EVERY_DEVICE = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        ),
    ],
)


OF_WHAT_IS_THERE = {"cub": {"labels": "class"}}
"""Parameters of data sets of which a part does, where the whole is not there."""


def each(names: Sequence[str], checks: Sequence[Check]) -> pytest.MarkDecorator:
    """Every plugin with every check."""
    pairs = [(name, check) for name in names for check in checks]
    return pytest.mark.parametrize(("name", "check"), pairs, ids=str)


def assert_kept(check: Check, trial: Trial) -> None:
    outcome = outcome_of(check, trial)
    if outcome.unchecked:
        pytest.skip(outcome.unchecked)
    assert not outcome.finding


@ON_EVERY_DEVICE
@each(ATTACKS.names(), ATTACK_CHECKS)
def test_every_attack_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, AttackTrial(name, device=device))


@ON_EVERY_DEVICE
@pytest.mark.parametrize(
    ("name", "check"),
    [
        (name, check)
        for name in ATTACKS.names()
        for check in checks_under_defenses(AttackTrial(name))
    ],
    ids=str,
)
def test_every_attack_answers_under_every_defense(name: str, check: Check, device: str) -> None:
    assert_kept(check, AttackTrial(name, device=device))


@ON_EVERY_DEVICE
@each(DEFENSES.names(), DEFENSE_CHECKS)
def test_every_defense_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, DefenseTrial(name, device=device))


@ON_EVERY_DEVICE
@each(MODELS.names(), MODEL_CHECKS)
def test_every_model_keeps_every_rule(name: str, check: Check, device: str) -> None:
    assert_kept(check, ModelTrial(name, device=device))


@each(DATASETS.names(), DATASET_CHECKS)
def test_every_data_set_keeps_every_rule_that_needs_no_files(name: str, check: Check) -> None:
    assert_kept(check, DatasetTrial(name))


@pytest.mark.slow
@pytest.mark.real_data
@each([name for name in DATASETS.names() if DATASETS.get(name).folder], DATASET_CHECKS)
def test_every_data_set_that_is_there_keeps_every_rule(
    name: str, check: Check, data_root: Path
) -> None:
    assert_kept(
        check, DatasetTrial(name, data_root=data_root, parameters=OF_WHAT_IS_THERE.get(name, {}))
    )


def test_every_defense_says_with_which_parameters_it_can_be_tried() -> None:
    for name in DEFENSES.names():
        assert DefenseTrial(name).defense.name == name


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


GOOD = AttackResult(scores={"gender": torch.full((2,), 0.3), "glasses": torch.full((2,), 0.7)})


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ([], "returned 0 results for 1"),
        (
            [replace(GOOD, scores={"gender": torch.full((2,), 0.5)})],
            "no scores for property 'glasses'",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.rand(3)})],
            r"scores\['gender'\] of shape \(3,\), expected \(2,\)",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.5, torch.nan])})],
            "NaN or infinity in scores",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.5, 1.5])})],
            r"outside \[0, 1\]",
        ),
        ([replace(GOOD, features=torch.rand(2, 5))], r"features of shape \(2, 5\)"),
        ([replace(GOOD, images=torch.rand(2, 3, 8, 8))], "images of shape"),
        ([replace(GOOD, images=torch.full((2, 3, 32, 32), torch.inf))], "NaN or infinity"),
        ([replace(GOOD, labels=torch.zeros(1))], "labels of shape"),
        ([replace(GOOD, labels=torch.zeros(2))], "labels that are not classes"),
        ([replace(GOOD, labels=torch.tensor([0, 99]))], "labels that are not classes"),
        ([None], "returned None, not an `AttackResult`"),
        ([replace(GOOD, scores={**GOOD.scores, "gender": [0.5, 0.5]})], "as list; return a tensor"),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.1, 0.9])})],
            "different scores.*no features",
        ),
    ],
)
def test_a_malformed_answer_is_refused(
    context: EvaluationContext, answer: list[AttackResult], named: str
) -> None:
    with pytest.raises(UsageError, match=f"attack 'stub' .*{named}"):
        check_results("stub", answer, [Observation(batch_size=2, seed=0)], context.server)
