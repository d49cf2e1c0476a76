"""Which columns Soteria zeroes."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
import torch

from clients import assert_equal, client, defense, sent
from leakbench.base.errors import UsageError
from leakbench.federation.client import gradient
from leakbench.federation.defenses.soteria import estimated_norms, jacobian_norms, sensitivity
from leakbench.federation.shared_model import SharedModel


def test_soteria_zeroes_the_columns_of_the_least_sensitive_features_alone() -> None:
    of = client(3)
    update, plain = sent(of, "soteria", fraction=0.3, probes=0), gradient(client(3))
    scores = sensitivity(of.model.extractor, of.images, 0, of.generator)
    weight = "classifier.0.weight"
    columns = scores.argsort()[: ceil(0.3 * 64)]
    expected = plain[weight].clone()
    expected[:, columns] = 0
    assert torch.equal(update[weight], expected)
    assert_equal(
        {n: v for n, v in update.items() if n != weight},
        {n: v for n, v in plain.items() if n != weight},
    )
    assert not torch.equal(expected, plain[weight])


def test_soteria_s_scores_are_norms_of_the_jacobian_over_the_feature() -> None:
    of = client(2)
    jacobian = torch.autograd.functional.jacobian(of.model.extractor, of.images)
    own = torch.stack([jacobian[i, :, i].flatten(1).norm(dim=1) for i in range(2)])
    torch.testing.assert_close(jacobian_norms(of.model.extractor, of.images), own)
    features = of.model.extractor(of.images)
    scores = sensitivity(of.model.extractor, of.images, 0, of.generator)
    assert scores.isfinite().all()
    alive = (features != 0).all(0)
    assert 0 < int(alive.sum()) < 64
    expected = (own / features.abs()).mean(0)
    torch.testing.assert_close(scores[alive], expected[alive])
    assert (scores[(features == 0).all(0)] == 0).all()


def test_probes_estimate_the_norms_without_bias() -> None:
    of = client(1)
    exact = jacobian_norms(of.model.extractor, of.images)
    estimated = estimated_norms(of.model.extractor, of.images, 2_000, of.generator)
    error = (estimated / exact - 1)[exact > 0]
    assert error.abs().max() < 4 / (2 * 2_000) ** 0.5
    assert error.mean().abs() < 0.005
    assert (estimated[exact == 0] == 0).all()


def test_soteria_relies_on_the_columns_that_were_sent() -> None:
    update = sent(client(3), "soteria", fraction=0.5)
    reliability = defense("soteria", fraction=0.5).reliability(update, 3)
    assert list(reliability) == ["classifier.0.weight"]
    reliability_of_columns = reliability["classifier.0.weight"]
    assert reliability_of_columns.shape == (1, 64)
    assert torch.equal(reliability_of_columns[0] == 0, (update["classifier.0.weight"] == 0).all(0))
    assert int((reliability_of_columns == 0).sum()) >= 32


def test_soteria_leaves_batch_norm_s_statistics_to_training() -> None:
    """It looks at the features once more, which must not count as another batch."""
    plain, defended = client(3, batch_norm=True), client(3, batch_norm=True)
    plain.model.train()
    defended.model.train()
    gradient(plain)
    sent(defended, "soteria", fraction=0.5)
    for ours, theirs in zip(defended.model.buffers(), plain.model.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_soteria_refuses_a_classifier_that_reads_something_else() -> None:
    of = client(2)
    classifier = torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.Linear(32, 8))
    with pytest.raises(UsageError, match="'soteria' needs a classifier that begins with a linear"):
        sent(
            replace(of, model=SharedModel(of.model.extractor, classifier)), "soteria", fraction=0.5
        )
