"""What an attack returns is checked before it is scored: a malformed result is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from leakbench.base.errors import UsageError
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.validation import check_results


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
