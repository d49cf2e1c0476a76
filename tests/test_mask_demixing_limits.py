"""Facts about the limits of mask demixing, and about its fallback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from leakbench.attacks import mask_demixing
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.linear_layers.certifying_attack import combined
from leakbench.attacks.linear_layers.demixing import reflections
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.reflections import Reflections
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.mask_demixing import MaskDemixing
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.records.record import Record
from leakbench.threat.attack import AttackResult
from leakbench.threat.knowledge import Knowledge
from measuring import measured
from planting import (
    best_cosines,
    budget,
    found_in,
    planted,
    server_of,
)


@pytest.mark.parametrize("individuals", [2, 3, 4])
def test_of_two_who_share_a_mask_and_a_label_the_mean_is_not_certified(individuals: int) -> None:
    """With two classes they have one x, and only their mean comes out."""
    batch = planted(individuals, 2, 64)
    mask = batch.head.first.forward(batch.features[:1].double()) > 0
    draw, far = torch.Generator().manual_seed(0), 0.5
    alike = batch.features[0]
    while torch.equal(alike, batch.features[0]):
        noise = torch.randn(len(alike), generator=draw)
        other = (alike + far * noise * alike).relu()
        if torch.equal(batch.head.first.forward(other[None].double()) > 0, mask):
            alike = other
        far *= 0.995
    features, labels = batch.features.clone(), batch.labels.clone()
    features[1], labels[1] = alike, labels[0]
    assert functional.cosine_similarity(features[0], alike, dim=0) < CERTIFIED
    pair = replace(batch, features=features, labels=labels)
    assert pair.space.rank == individuals - 1
    (found,) = found_in([pair], budget(400, 64, rounds=4))
    assert not found.certified.any()


def test_a_search_that_finds_the_same_again_and_again_gives_up() -> None:
    """Under noise an individual with a weak signal stays uncertain."""
    batch = planted(8)
    problem = batch.problem(VictimBatch(batch.changed(GaussianNoise(sigma=3e-4)), 8, 0))
    looks: list[float] = []
    search = Reflections([problem], 128)
    search.search(replace(budget(20_000), reflection_patience=300), looks.append)
    assert not problem.candidates.done
    assert problem.recovered.certain.sum() >= 5
    assert len(looks) < 1_000


def test_somebody_twice_in_a_batch_is_found_once() -> None:
    batch = planted(4)
    twice = replace(
        batch,
        features=torch.cat([batch.features, batch.features[:1]]),
        labels=torch.cat([batch.labels, batch.labels[:1]]),
    )
    assert twice.space.rank == 4
    (found,) = found_in([twice])
    assert len(found) == 4
    assert best_cosines(found, batch.features).min() > CERTIFIED


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_of_an_update_that_says_nothing_nobody_is_found(value: float) -> None:
    batch = planted(4)
    update = {name: torch.full_like(of, value) for name, of in batch.update.items()}
    (found,) = found_in([batch], budget(20, 16, rounds=2), [update])
    assert not found.certain.any()


def test_where_memory_runs_out_fewer_victims_stand_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Narrow(Reflections):
        def search(self, budget: SearchBudget, progress: Callable[[float], None]) -> None:
            asked.append(len(self.problems))
            if len(self.problems) > 1:
                raise RuntimeError("CUDA out of memory")
            super().search(budget, progress)

    monkeypatch.setattr(mask_demixing, "Reflections", Narrow)
    monkeypatch.setattr(reflections, "SIDE_BY_SIDE", (2**17, 2**17))
    batch = planted(3)
    found = found_in([batch] * 5, budget(reflection_runs=64))
    assert asked[0] > 1
    assert asked[-5:] == [1] * 5
    assert all(each.certified.all() for each in found)


def test_where_not_even_one_victim_fits_a_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Reflections, "search", full)
    with pytest.raises(UsageError, match="not even one batch of 3 fits into the memory of cpu"):
        found_in([planted(3)])


def test_more_individuals_than_units_can_tell_apart_are_not_sought() -> None:
    batch = planted(60, units=64)
    assert not batch.space.tells_apart
    (found,) = found_in([batch])
    assert len(found) == 0


def test_a_batch_is_found_alike_beside_others_of_other_sizes() -> None:
    """Their residuals span spaces of other dimensions, and are filled up."""
    batches = [planted(8), planted(3)]
    alone = [found_in([each])[0] for each in batches]
    fewer = VictimBatch(batches[0].update, 3, 1)
    problems = [batches[0].problem(), batches[0].problem(fewer)]
    together = Reflections(problems, 128)
    assert together.widths.tolist() == [7, 3]
    together.search(budget(500), lambda share: None)
    torch.testing.assert_close(
        problems[0].recovered.features, alone[0].features, rtol=1e-4, atol=1e-5
    )


def test_its_labels_of_d_aux_may_be_unknown(small_setup: Setup) -> None:
    context = prepare(small_setup, None, "cpu", lambda message: None)
    assert context.server.auxiliary is not None
    unknown = replace(
        context.server.auxiliary, labels=torch.full_like(context.server.auxiliary.labels, -1)
    )
    cell = Cell.model_validate(
        small_setup.model_dump() | {"attack": "mask_demixing", "batch_size": 4, "individuals": 8}
    )
    without = replace(context, server=replace(context.server, auxiliary=unknown))
    truths = victim_batches(without, 4, 8)
    answers = infer(
        MaskDemixing(), truths, Exchange.of(ResolvedCell.of(cell)), without, lambda share: None
    )
    assert all(bool(i.certified is not None and i.certified.all()) for i in answers.results)


def test_batch_statistics_are_refused(small_setup: Setup) -> None:
    parameters = {"width": 4, "batch_norm": True}
    setup = small_setup.model_copy(update={"model_parameters": parameters})
    with pytest.raises(UsageError, match="take mode=eval"):
        measured(setup, None, "mask_demixing", {}, batch_size=2, individuals=4, mode="train")
    found = measured(setup, None, "mask_demixing", {}, batch_size=2, individuals=4).metrics
    assert found is not None
    assert found.certificates is not None
    assert found.certificates.share == 1


def test_it_reads_no_images() -> None:
    with pytest.raises(UsageError, match="finds no images"):
        build(ATTACKS, "mask_demixing", {"reads": "images"})


def test_the_certain_come_first_and_dummies_are_not_certified() -> None:
    found = RecoveredIndividuals(
        features=torch.eye(3).double()[:1],
        labels=torch.tensor([1]),
        mismatch=torch.zeros(1),
        certain=torch.tensor([True]),
        certified=torch.tensor([True]),
        length=torch.ones(1),
    )
    dummies = AttackResult(
        scores={}, features=torch.eye(3), labels=torch.tensor([0, 0, 2]), loss=0.5, steps=7
    )
    answer = combined(found, dummies, server_of(planted(1)))
    assert answer.certified is not None
    assert answer.features is not None
    assert answer.certified.tolist() == [True, False, False]
    assert torch.equal(answer.features, torch.eye(3))
    assert answer.labels is not None
    assert answer.labels.tolist() == [1, 0, 2]
    assert answer.steps == 7


def test_parameters_of_the_fallback_stand_beside_its_own() -> None:
    attack = build(ATTACKS, "mask_demixing", {"budget": 7, "rounds": 3})
    assert (attack.rounds, attack.fallback) == (3, "feature")
    assert isinstance(attack.fallback_attack, FeatureReconstruction)
    assert (attack.fallback_attack.steps, attack.fallback_attack.labels) == (7, "counts")
    flat = parameters_of(attack)
    assert (flat["budget"], flat["labels"], flat["rounds"]) == (7, "counts", 3)
    assert "fallback" not in flat
    assert "fallback_parameters" not in flat
    assert build(ATTACKS, "mask_demixing", flat) == attack


def test_another_fallback_brings_its_own_parameters() -> None:
    attack = build(ATTACKS, "mask_demixing", {"fallback": "ig", "tv": 0.1, "labels": "counts"})
    assert isinstance(attack.fallback_attack, InvertingGradients)
    assert parameters_of(attack)["fallback"] == "ig"
    assert build(ATTACKS, "mask_demixing", parameters_of(attack)) == attack
    assert Knowledge.LABELS not in attack.required_knowledge
    known = build(ATTACKS, "mask_demixing", {"fallback": "ig"})
    assert Knowledge.LABELS in known.required_knowledge


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tv": 0.1}, "'mask_demixing' has no parameter 'tv'; it has: budget"),
        ({"fallback": "ig", "lam": 0.1}, "'mask_demixing' has no parameter 'lam'; it has: budget"),
        ({"fallback": "igg"}, "'igg'.*ig"),
        ({"fallback": "newton_demixing"}, "both have a parameter 'fallback'; choose another"),
        ({"budget": 0}, "budget: input should be greater than 0"),
        ({"fallback": "oracle"}, "'oracle', which needs to know features"),
        ({"fallback": "hcn"}, "'hcn', which needs to know outputs"),
        ({"fallback": "row_space"}, "'row_space', which needs to know candidates"),
        ({"fallback": "ul"}, "'ul', which reconstructs no features"),
        ({"fallback": "prior"}, "'prior', which reconstructs no features"),
        ({"fallback": "idlg"}, "'idlg', which is defined up to B = 1 only"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(ATTACKS, "mask_demixing", parameters)


def test_the_fallback_answers_for_whoever_is_not_found(small_setup: Setup) -> None:
    """Where nothing is searched, the blind control's answer is its own."""
    grant = ("model", "update", "auxiliary")
    idle = {"rounds": 0, "reflections": 0, "fallback": "blind", "labels": "ignored"}
    fields = {"batch_size": 4, "individuals": 8, "grant": grant}
    found = measured(small_setup, None, "mask_demixing", idle, **fields)
    assert found.cell.attack_parameters["fallback"] == "blind"
    assert found.metrics is not None
    assert found.metrics.certificates is not None
    assert found.metrics.certificates.share == 0
    assert found.metrics.label_accuracy is None


def test_published_parameters_keep_their_keys() -> None:
    folder = Path(__file__).parent.parent / "results" / "records"
    records = [
        Record.model_validate_json(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    ]
    demixing = [each for each in records if each.cell.attack.endswith("_demixing")]
    assert len(demixing) > 100
    for record in demixing:
        attack = build(ATTACKS, record.cell.attack, record.cell.attack_parameters)
        cell = record.cell.model_copy(update={"attack_parameters": parameters_of(attack)})
        assert list(cell.attack_parameters) == list(record.cell.attack_parameters)
        assert cell.key(attack.version, record.schema_version) == record.key
