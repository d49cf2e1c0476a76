"""Mask demixing: planted individuals come back exactly, and no certificate is false."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from faces import faces
from leakbench.attacks import mask_demixing
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.linear_layers.demixing import reflections
from leakbench.attacks.linear_layers.demixing.auxiliary_population import population_of
from leakbench.attacks.linear_layers.demixing.masked_space import refine
from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    recovered_from_columns,
)
from leakbench.attacks.linear_layers.demixing.reflections import Reflections
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing_attack import combined, unmatched
from leakbench.attacks.linear_layers.head import head_of
from leakbench.attacks.mask_demixing import MaskDemixing
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS, MODELS
from leakbench.evaluation.measuring import Exchange, infer, measure, victim_batches
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.expansion import expand
from leakbench.experiments.overrides import override
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import load_suite
from leakbench.federation.client import client_update
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.clipping import Clipping
from leakbench.federation.defenses.dp_sgd import DPSGD
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.defenses.quantise import Quantisation
from leakbench.federation.defenses.secure_aggregation import SecureAggregation
from leakbench.federation.defenses.sparsify import Sparsification
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.records.record import Record
from leakbench.threat.attack import AttackResult
from leakbench.threat.knowledge import Knowledge
from measuring import assert_same_inference, measured
from planting import (
    Planted,
    best_cosines,
    budget,
    demixing_attack,
    found_in,
    planted,
    server_of,
)


@pytest.mark.parametrize(("classes", "units"), [(2, 128), (8, 128), (100, 256)])
@pytest.mark.parametrize("individuals", [1, 8, 32])
def test_everybody_is_found_exactly_with_their_labels(
    classes: int, units: int, individuals: int
) -> None:
    batch = planted(individuals, classes, units)
    (found,) = found_in([batch])
    assert len(found) == individuals
    assert found.certified.all()
    pairs = functional.cosine_similarity(
        batch.features.double()[:, None], found.features[None], dim=2
    )
    assert pairs.max(1).values.min() > CERTIFIED
    assert torch.equal(found.labels[pairs.argmax(1)], batch.labels)
    torch.testing.assert_close(
        found.features[pairs.argmax(1)].float(), batch.features, rtol=1e-3, atol=1e-3
    )


def test_the_true_columns_have_both_properties() -> None:
    batch = planted(8)
    space, columns = batch.space, batch.columns()
    assert space.rank == 8
    assert space.residuals.shape == (8, 7)
    vectors, _, distances = refine(columns != 0, space)
    assert distances.max() < 1e-5
    parallel = functional.cosine_similarity(vectors, columns, dim=0)
    torch.testing.assert_close(parallel.abs(), torch.ones(8).double())


def test_residuals_of_few_individuals_lie_in_a_smaller_space_than_that_of_classes() -> None:
    assert planted(3, classes=100).space.residuals.shape == (100, 3)
    assert planted(3, classes=2).space.residuals.shape == (2, 1)


def test_refining_corrects_a_mask_with_a_few_units_wrong() -> None:
    batch = planted(8)
    right = batch.columns() != 0
    wrong = right.clone()
    wrong[:3] = ~wrong[:3]
    _, masks, distances = refine(wrong, batch.space)
    assert distances.max() < 1e-4
    assert torch.equal(masks, right)


def test_who_is_not_who_was_found_is_not_certified() -> None:
    """A column that is wrong takes its part of all features, and so everybody's certificate."""
    batch = planted(8)
    columns = batch.columns()
    right = recovered_from_columns(batch.head, batch.space, columns)
    assert right.mismatch.max() < 1e-4
    wrong = columns.clone()
    wrong[:, 0] = batch.space.basis @ torch.randn(8).double()
    found = recovered_from_columns(batch.head, batch.space, wrong)
    assert not found.certified.any()


def test_without_columns_nobody_is_found() -> None:
    batch = planted(4)
    assert len(recovered_from_columns(batch.head, batch.space, batch.columns()[:, :0])) == 0


def test_the_population_is_d_aux_as_the_first_layer_sees_it() -> None:
    batch = planted(4, classes=2)
    z = batch.model.classifier[0](batch.auxiliary)
    torch.testing.assert_close(batch.population.z, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.population.residuals.sum(1), torch.zeros(200))


def test_unknown_labels_of_d_aux_are_drawn() -> None:
    batch = planted(4)
    unknown = population_of(batch.head, batch.auxiliary, torch.full((200,), -1))
    assert (unknown.residuals.min(1).values < 0).all()
    assert len(unknown.labels.unique()) == 8


@pytest.mark.slow
def test_no_certificate_is_false_over_ten_thousand_individuals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Easy cases, hard ones, and some in which not all can be found."""
    rows = []
    for classes, units, individuals, batches in (
        (2, 128, 8, 250),
        (2, 128, 32, 100),
        (8, 128, 16, 150),
        (8, 128, 32, 80),
        (100, 256, 16, 60),
        (2, 64, 24, 20),
        (8, 64, 32, 20),
    ):
        certified = false = exact = 0
        for seed in range(batches):
            batch = planted(individuals, classes, units, seed)
            (found,) = found_in([batch], budget(600, 64, rounds=20))
            cosines = best_cosines(found, batch.features) if len(found) else torch.empty(0)
            certified += int(found.certified.sum())
            false += int((cosines[found.certified] < CERTIFIED).sum())
            exact += int((cosines >= CERTIFIED).sum())
        rows.append((classes, units, individuals, batches * individuals, exact, certified, false))
    with capsys.disabled():
        print("\nK, m, B, individuals, exact, certified, false")
        print("\n".join(", ".join(map(str, row)) for row in rows))
    certified = sum(row[5] for row in rows)
    assert sum(row[3] for row in rows) >= 10_000
    assert certified >= 8_000
    assert sum(row[6] for row in rows) == 0


@pytest.mark.parametrize(
    ("model", "split"),
    [("lenet", "convolutions"), ("resnet18", "convolutions"), ("small_cnn", "hidden")],
)
def test_other_classifiers_are_refused(model: str, split: str) -> None:
    shared = build(MODELS, model, {}).build(2, 32, split)
    with pytest.raises(UsageError, match="take newton_demixing"):
        MaskDemixing().check_head(head_of(shared, "mask_demixing"))


def test_a_cell_with_another_classifier_says_so(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"split": "hidden"})
    with pytest.raises(UsageError, match="take newton_demixing"):
        measured(setup, None, "mask_demixing", {}, batch_size=2, individuals=4)


@pytest.mark.parametrize("batch_size", [1, 8, 16])
def test_it_is_level_with_the_oracle_without_labels(small_setup: Setup, batch_size: int) -> None:
    fields = {"batch_size": batch_size, "individuals": 16}
    grant = ("model", "update", "auxiliary")
    found = measured(small_setup, None, "mask_demixing", {}, grant=grant, **fields).metrics
    oracle = measured(
        small_setup, None, "oracle", {}, grant=("model", "auxiliary", "features"), **fields
    ).metrics
    assert found is not None
    assert oracle is not None
    assert found.certificates is not None
    assert (found.certificates.share, found.certificates.false) == (1.0, 0)
    assert found.label_accuracy == 1
    assert_same_inference(found, oracle)


@pytest.mark.parametrize("main_task", ["2-class", "8-class"])
def test_real_faces_are_found_exactly(data_root: Path, main_task: str) -> None:
    name, suite = load_suite("table2")
    settings = ["rounds=20", "individuals=64", "batch_size=32", f"main_task={main_task}"]
    chosen = expand(name, override(suite, settings), ["attack=mask_demixing"])
    cell = next(p.cell for p in chosen if "labels" not in p.cell.grant)
    found = measure(
        ResolvedCell.of(cell), prepare(cell.setup, data_root, "cpu", lambda m: None), lambda s: None
    )
    assert found.metrics is not None
    assert found.metrics.certificates is not None
    assert (found.metrics.certificates.share, found.metrics.certificates.false) == (1.0, 0)
    assert found.metrics.label_accuracy == 1


def test_behind_noise_the_proposed_attack_answers_and_nobody_is_certified(
    small_setup: Setup,
) -> None:
    noise = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    short = {"budget": 4, "reflections": 20, "rounds": 2}
    record = measured(
        small_setup, None, "mask_demixing", short, batch_size=4, individuals=8, **noise
    )
    assert record.metrics is not None
    assert record.metrics.certificates is not None
    assert record.metrics.certificates.share == 0
    assert record.cost is not None
    assert record.cost.steps == 4


def test_dummies_nearest_to_those_who_are_certain_are_left_out() -> None:
    dummies = torch.eye(4)
    certain = torch.tensor([[0.1, 0.0, 1.0, 0.0], [0.9, 0.1, 0.2, 0.0]])
    assert unmatched(certain, dummies).tolist() == [1, 3]
    assert unmatched(certain[:0], dummies).tolist() == [0, 1, 2, 3]


def test_faces_whose_masks_all_but_agree_are_told_apart() -> None:
    """On an untrained model two of them differ in two units, so that five columns fit four."""
    torch.manual_seed(1)
    model = SmallCNN(width=4, hidden=64).build(2, 16, "convolutions")
    images, labels = faces(64, 16), torch.randint(2, (64,))
    features = model.features(images).detach()
    head = head_of(model, "mask_demixing")
    found = demixing_attack(head, budget(500, 64)).recover(
        head,
        [
            VictimBatch(client_update(model, images[i : i + 4], labels[i : i + 4]), 4, seed)
            for seed, i in enumerate((0, 4))
        ],
        (features[8:], labels[8:]),
        lambda share: None,
    )
    for first, each in zip((0, 4), found, strict=True):
        assert len(each) == 4
        assert best_cosines(each, features[first : first + 4]).min() > CERTIFIED


def found_behind(
    batch: Planted, defense: Defense, within: SearchBudget | None = None
) -> RecoveredIndividuals:
    (found,) = found_in([batch], within or budget(reflections=200), [batch.changed(defense)])
    return found


@pytest.mark.parametrize(
    ("defense", "certified"),
    [
        (Clipping(norm=1e-3), True),
        (SecureAggregation(of=4), True),
        # Each individual's own length: the features are right, but there is no telling.
        (DPSGD(clip=0.05, noise=0.0), False),
    ],
    ids=repr,
)
def test_what_changes_lengths_alone_hides_nobody(defense: Defense, certified: bool) -> None:
    batch = planted(8)
    found = found_behind(batch, defense)
    assert found.certain.all()
    assert len(found) == 8
    assert best_cosines(found, batch.features).min() > CERTIFIED
    assert bool(found.certified.all()) == certified


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize(
    "defense",
    [
        *(GaussianNoise(sigma=sigma) for sigma in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)),
        Quantisation(bits=16),
        Quantisation(bits=8),
        Sparsification(fraction=0.9),
    ],
    ids=repr,
)
def test_what_a_defense_blurs_is_not_certified_falsely(defense: Defense, classes: int) -> None:
    for seed in range(3):
        batch = planted(8, classes, seed=seed)
        found = found_behind(batch, defense, budget(60, rounds=4))
        if len(found):
            assert (best_cosines(found, batch.features)[found.certified] > CERTIFIED).all()


def test_weak_noise_hides_nobody() -> None:
    found = found_behind(planted(8), GaussianNoise(sigma=1e-6))
    assert found.certified.all()
    assert len(found) == 8


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
    """Behind noise somebody weak stays uncertain."""
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


def test_a_fallback_without_features_is_refused(small_setup: Setup) -> None:
    idle = {"rounds": 0, "reflections": 0, "fallback": "prior"}
    with pytest.raises(UsageError, match="'prior', which reconstructs no features; choose"):
        measured(small_setup, None, "mask_demixing", idle, batch_size=4, individuals=8)


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
        assert cell.key(attack.version) == record.key
