"""Quotient recovers deep features."""

from __future__ import annotations

import torch

from leakbench.conformance.attack_trial import AttackTrial
from leakbench.evaluation.measuring import victim_batches


def test_the_feature_of_one_individual_is_exact() -> None:
    trial = AttackTrial("quotient")
    server, observations = trial.shown(batch_size=1)
    truths = victim_batches(trial.context, batch_size=1, individuals=len(observations))
    for answer, truth in zip(trial.infer(server, observations), truths, strict=True):
        assert answer.features is not None
        torch.testing.assert_close(answer.features, truth.features, rtol=1e-3, atol=1e-3)
