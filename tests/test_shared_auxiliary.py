"""Trainings of one setup share individuals and D_aux in memory."""

from __future__ import annotations

import torch

from leakbench.evaluation.preparation import EvaluationContext
from leakbench.experiments.cell import Setup
from leakbench.sweep import worker
from leakbench.sweep.executor import Site

HERE = Site(data_root=None, device="cpu", lpips_weights=None, compiling="off")


def kept_of(setup: Setup) -> EvaluationContext:
    return worker._prepared(setup, HERE, lambda message: None)


def test_a_second_training_shares_all_but_the_weights(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"rounds": 1})
    other = setup.model_copy(update={"training": 1})
    try:
        first, second = kept_of(setup), kept_of(other)
        worker._kept.clear()
        alone = kept_of(other)
    finally:
        worker._kept.clear()
    assert second.individuals is first.individuals
    assert second.server.auxiliary is first.server.auxiliary
    assert second.server.auxiliary is not None and alone.server.auxiliary is not None
    # And it is what a worker has that prepares this training by itself.
    assert alone.individuals is not second.individuals
    for name in ("images", "labels", "identities"):
        one, same = (getattr(each.server.auxiliary, name) for each in (second, alone))
        assert torch.equal(one, same)
    assert second.server.feature_space is not None and alone.server.feature_space is not None
    assert torch.equal(second.server.feature_space.features, alone.server.feature_space.features)
    assert second.main_task == alone.main_task
