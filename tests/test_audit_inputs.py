"""Rows of a table and token ids as inputs of the audited model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditing import audited, by_name
from leakbench import LabelledImages
from leakbench.auditing.model_splitting import split_model
from leakbench.auditing.training import FederatedTraining
from leakbench.base.errors import UsageError
from tables import COLUMNS, individuals, losing, tabular, texts


def sent(model: nn.Module, of: LabelledImages, size: int) -> dict[str, dict[str, Tensor]]:
    assert of.labels is not None
    return {
        f"client {int(rows[0]) // size}": losing(
            model, nn.CrossEntropyLoss(), of.images[rows], of.labels[rows]
        )
        for rows in torch.arange(len(of)).split(size)
    }


def audited_on(kind: str, model: nn.Module, size: int = 8, **changed: Any) -> Any:
    victims = individuals(kind, 2 * size, seed=2)
    truth = replace(victims, updates=[f"client {row // size}" for row in range(2 * size)])
    arguments: dict[str, Any] = {
        "split": None,
        "auxiliary": individuals(kind, 120, seed=1),
        "properties": ["old"],
        "truth": truth,
    }
    return audited(model, sent(model, victims, size), **(arguments | changed))


def test_a_tabular_mlp_gives_whole_rows_away() -> None:
    attacks = ["mask_demixing", "newton_demixing", "feature_direct", "feature_lbfgs"]
    report = audited_on("rows", tabular(), attacks=attacks, budget=40, property_model="validated")
    found = by_name(report.attacks)
    assert (found["mask_demixing"].certified, found["mask_demixing"].false_certificates) == (16, 0)
    assert found["mask_demixing"].parameters["fallback"] == "feature_direct"
    assert {update.check for update in report.updates} == {"agrees"}
    assert not found["feature_direct"].refused
    assert all(not found[name].refused for name in ("prior", "blind", "labels", "oracle"))
    assert found["oracle"].metrics is not None
    assert (found["oracle"].metrics.properties["old"].balanced_accuracy.value or 0.0) > 0.9
    assert "feature_lbfgs' reconstructs images, but this model takes" in report.summary
    assert "a certified feature is an individual's whole row" in report.summary
    assert report.model.split == "the input of 0" and report.model.features == COLUMNS


def test_a_classifier_of_tokens_is_certified() -> None:
    report = audited_on("token ids", texts(), defenses=[{"name": "soteria", "fraction": 0.5}])
    found = by_name(report.attacks)["mask_demixing"]
    assert (found.certified, found.false_certificates) == (16, 0)
    assert {update.check for update in report.updates} == {"agrees"}
    assert "The gradient of the embedding shows which tokens are in a batch" in report.summary
    assert "needs the derivative of features by the inputs, which token ids" in report.summary


def test_what_is_not_found_exactly_is_answered_by_an_attack_on_features() -> None:
    """More individuals than columns: the gradient's rank is too small to tell them apart."""
    chosen = {"mask_demixing": {"budget": 8, "quiet": 10, "patience": 1}}
    report = audited_on("rows", tabular(), size=24, attacks=chosen)
    found = by_name(report.attacks)["mask_demixing"]
    assert not found.refused and found.certified == 0
    assert report.updates[0].individuals[0].answers["mask_demixing"].cosine is not None


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.tensor([[0.0, torch.nan]]), "rows of D_aux hold NaN or infinity"),
        (torch.tensor([[0, -1]]), "token ids of D_aux must be 0 or more"),
        (torch.tensor([[True, False]]), r"integers of shape .*, not torch.bool of shape \(1, 2\)"),
        (torch.zeros(2, 28, 28), r"not torch.float32 of shape \(2, 28, 28\)"),
        (torch.zeros(2, 3, 8, 8).byte(), "images of D_aux must be floating-point numbers"),
        (torch.zeros(2, 0), "D_aux has no rows"),
        (torch.zeros(120, 7), "rows of shape .*; check their number and type"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(images: Tensor, said: str) -> None:
    labels = torch.zeros(len(images)).long()
    aux = LabelledImages(images=images, labels=labels, properties={"old": labels})
    with pytest.raises(UsageError, match=said):
        audited_on("rows", tabular(), auxiliary=aux)


def test_a_scale_of_pixels_is_for_images() -> None:
    with pytest.raises(UsageError, match="pixel_mean and pixel_deviation scale images, not rows"):
        audited_on("rows", tabular(), pixel_mean=(0.5,))


def test_equal_rows_are_of_different_people_only_if_identities_say_so() -> None:
    aux = individuals("rows", 120, seed=1)
    rows = aux.images.clone()
    rows[5] = individuals("rows", 16, seed=2).images[3]
    aux = replace(aux, images=rows)
    with pytest.raises(UsageError, match=r"individual 4 of the truth .* the same row; .* or give"):
        audited_on("rows", tabular(), auxiliary=aux)
    victims = individuals("rows", 16, seed=2)
    truth = replace(
        victims,
        identities=torch.arange(1000, 1016),
        updates=[f"client {row // 8}" for row in range(16)],
    )
    identified = replace(aux, identities=torch.arange(120))
    assert audited_on("rows", tabular(), auxiliary=identified, truth=truth).attacks


def test_rows_are_not_trained_on_as_images() -> None:
    rows = individuals("rows", 16, seed=3)
    assert rows.labels is not None
    training = FederatedTraining(
        images=rows.images, labels=rows.labels, test_images=rows.images, test_labels=rows.labels
    )
    with pytest.raises(UsageError, match="trains on images, not on rows; give `training` a func"):
        training.of(split_model(tabular(), None, rows.images[:3]))
