"""Facts about the baselines: what they make of labels, and where their labels are from."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS
from leakbench.baselines.labels import balanced_shares
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.suite import suite_names
from leakbench.federation.client import client_update
from leakbench.reports.baselines import is_baseline, label_knowledge
from leakbench.threat.attack import AttackResult
from leakbench.threat.batch_labels import expected_predictions
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.label_recovery import recover_labels
from leakbench.threat.observation import GroundTruth, Observation, observe
from leakbench.threat.server import Auxiliary, FeatureSpace, Server
from records import suite_entries

FEATURES = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [4.0, 2.0]])


def small_server(present: list[bool], labels: list[int]) -> Server:
    """A server whose D_aux has four individuals with one property."""
    auxiliary = Auxiliary(
        images=torch.zeros(4, 3, 2, 2),
        labels=torch.tensor(labels),
        properties={"smile": torch.tensor(present)},
        identities=torch.arange(4),
    )
    space = FeatureSpace(FEATURES, lambda features: {"smile": features[:, 0] / 8})
    return Server(3, (3, 2, 2), ("smile",), auxiliary=auxiliary, feature_space=space)


def answer(
    name: str, source: str, server: Server, *observations: Observation
) -> list[AttackResult]:
    results: list[AttackResult] = build(ATTACKS, name, {"labels": source}).infer(
        server, observations, lambda share: None
    )
    return results


def test_labels_alone_are_a_mean_feature_and_a_balanced_share() -> None:
    server = small_server([True, True, True, False], [0, 0, 1, 1])
    observation = Observation(3, seed=0, labels=torch.tensor([0, 1, 2]))
    (found,) = answer("labels", "known", server, observation)
    assert found.features is not None
    assert found.features.tolist() == [[0, 2], [4, 1], [2, 1.5]]
    # Of those with the property 2 of 3 have label 0, of those without it none; label 1 has 1 of 3
    # and all; label 2 is in nobody.
    assert found.scores["smile"].tolist() == pytest.approx([1.0, (1 / 3) / (1 / 3 + 1), 0.5])


def test_ignored_labels_tell_nothing() -> None:
    server = small_server([True, True, True, False], [0, 0, 1, 1])
    observation = Observation(2, seed=0, labels=torch.tensor([0, 1]))
    (found,) = answer("labels", "ignored", server, observation)
    assert found.features is not None
    assert found.features.tolist() == [[2, 1.5]] * 2
    assert found.scores["smile"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("present", [[True] * 4, [False] * 4])
def test_a_property_of_everybody_or_nobody_has_share_one_half(present: list[bool]) -> None:
    server = small_server(present, [0, 0, 1, 1])
    assert server.auxiliary is not None
    assert balanced_shares(server.auxiliary, 0) == {"smile": 0.5}


def test_one_half_is_the_best_threshold_for_balanced_accuracy() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=draw)
    present = torch.rand(200, generator=draw) < torch.tensor([0.05, 0.2, 0.3, 0.6])[labels]
    auxiliary = Auxiliary(
        torch.zeros(200, 1), labels, {"smile": present}, identities=torch.arange(200)
    )
    shares = [balanced_shares(auxiliary, label)["smile"] for label in range(4)]

    def accuracy(decisions: tuple[bool, ...]) -> float:
        decided = torch.tensor(decisions)[labels]
        right = [(decided == present)[present == side].float().mean() for side in (True, False)]
        return float(sum(right)) / 2

    best = max(itertools.product([False, True], repeat=4), key=accuracy)
    assert [share >= 0.5 for share in shares] == list(best)
    assert any(best) and not all(best)


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


def seen(context: EvaluationContext, truth: GroundTruth, seed: int = 1) -> Observation:
    """What an adversary sees of a batch who is given the update, and no labels."""
    model = context.server.model
    assert model is not None
    update = client_update(model, truth.images, truth.labels)
    return observe(truth, update, Knowledge.UPDATE, seed)


@pytest.mark.parametrize("name", ["labels", "blind"])
def test_recovered_labels_answer_as_known_ones_where_recovery_is_exact(
    context: EvaluationContext, name: str
) -> None:
    truths = victim_batches(context, 1, 12)
    updates = [seen(context, truth) for truth in truths]
    known = [
        replace(observation, update=None, labels=truth.labels)
        for observation, truth in zip(updates, truths, strict=True)
    ]
    recovered = answer(name, "counts", context.server, *updates)
    for ours, theirs in zip(recovered, answer(name, "known", context.server, *known), strict=True):
        assert ours.features is not None and theirs.features is not None
        assert torch.equal(ours.features, theirs.features)
    ignored = answer(name, "ignored", context.server, *updates)
    assert not torch.equal(
        torch.stack([each.features for each in recovered]),  # type: ignore[misc]
        torch.stack([each.features for each in ignored]),  # type: ignore[misc]
    )


def test_recovered_labels_are_those_that_attacks_recover(context: EvaluationContext) -> None:
    (truth,) = victim_batches(context, 8, 8)
    observation = seen(context, truth)
    server = context.server
    assert server.model is not None and observation.update is not None
    expected = expected_predictions(server)
    labels = recover_labels("counts", server.model, observation.update, 8, expected)
    (found,) = answer("labels", "counts", server, observation)
    given = replace(observation, update=None, labels=labels)
    (wanted,) = answer("labels", "known", server, given)
    assert found.features is not None and wanted.features is not None
    assert torch.equal(found.features, wanted.features)


def test_of_an_update_that_is_not_finite_no_labels_are_recovered(
    context: EvaluationContext,
) -> None:
    (truth,) = victim_batches(context, 2, 2)
    observation = seen(context, truth)
    assert observation.update is not None
    broken = {name: torch.full_like(value, torch.nan) for name, value in observation.update.items()}
    unreadable = replace(observation, update=broken)
    (found,) = answer("labels", "counts", context.server, unreadable)
    (ignored,) = answer("labels", "ignored", context.server, unreadable)
    assert found.features is not None and ignored.features is not None
    assert torch.equal(found.features, ignored.features)


@pytest.mark.parametrize("name", ["labels", "blind"])
@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("known", Knowledge.LABELS),
        ("counts", Knowledge.UPDATE),
        ("ignored", Knowledge.NOTHING),
    ],
)
def test_a_baseline_asks_for_what_its_labels_come_from(
    name: str, source: str, more: Knowledge
) -> None:
    baseline = build(ATTACKS, name, {"labels": source})
    assert baseline.required_knowledge == Knowledge.MODEL | Knowledge.AUXILIARY | more


def test_controls_say_by_declaration_what_they_are() -> None:
    declared = {name: ATTACKS.get(name).control for name in ATTACKS.names()}
    assert {name: of for name, of in declared.items() if of} == {
        "prior": "baseline",
        "blind": "baseline",
        "labels": "baseline",
        "oracle": "upper bound",
    }


def _groups() -> list[tuple[str, list[SuiteEntry]]]:
    """Every group of our suites in which attacks are compared by accuracy or exact features."""
    found: dict[str, list[SuiteEntry]] = {}
    for suite in suite_names():
        for entry in suite_entries(suite):
            if entry.layout != "membership":
                found.setdefault(f"{suite}: {entry.group}", []).append(entry)
    return list(found.items())


@pytest.mark.parametrize(("group", "entries"), _groups(), ids=lambda each: str(each)[:60])
def test_in_our_suites_every_attack_has_a_baseline_that_knows_the_labels_as_it_does(
    group: str, entries: list[SuiteEntry]
) -> None:
    knows = {(entry.cell.attack, frozenset(entry.resolved.knowledge.names())) for entry in entries}
    baselines = [(name, knowledge) for name, knowledge in knows if is_baseline(name)]
    for name, knowledge in knows:
        if not ATTACKS.get(name).control:
            fair = [(of, known) for of, known in baselines if known <= knowledge]
            assert label_knowledge(knowledge) in {label_knowledge(known) for _, known in fair}, name
            if "outputs" not in knowledge:
                assert "labels" in {of for of, _ in fair}, (group, name)
