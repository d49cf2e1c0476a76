"""An attack can reach what its cell grants, and nothing else."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from types import FrameType, FunctionType, ModuleType
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS, DEFENSES
from leakbench.data.images import to_images
from leakbench.evaluation.measuring import measure, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.client import Client, client_update
from leakbench.threat.attack import Attack, check_batch_size, check_grant
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth, observe
from leakbench.threat.server import Server, granted


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


def reachable(roots: list[object]) -> Iterator[object]:
    """Every object that can be reached from `roots` through references, code and modules aside."""
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        found = stack.pop()
        if id(found) in seen or isinstance(found, ModuleType | FunctionType | FrameType | type):
            continue
        seen.add(id(found))
        yield found
        stack.extend(gc.get_referents(found))
        if isinstance(found, np.ndarray) and found.base is not None:
            stack.append(found.base)


def holds(objects: list[object], secret: Tensor) -> bool:
    """Whether the secret's rows are in any tensor or array, whole storages included."""
    wanted = {row.tobytes() for row in secret.reshape(len(secret), -1).numpy()}
    for found in objects:
        if isinstance(found, Tensor):
            whole = torch.empty(0, dtype=found.dtype).set_(found.untyped_storage())
            if found.dtype == secret.dtype and has_rows(whole, wanted, secret[0].numel()):
                return True
        elif isinstance(found, np.ndarray) and found.dtype == np.uint8 and secret.ndim == 4:
            pixels = torch.from_numpy(np.array(found)).float() / 255
            if has_rows(pixels.flatten(), wanted, secret[0].numel()):
                return True
    return False


def has_rows(flat: Tensor, wanted: set[bytes], length: int) -> bool:
    rows = flat[: len(flat) // length * length].reshape(-1, length).numpy()
    return any(row.tobytes() in wanted for row in rows)


def seen_with(context: EvaluationContext, truth: GroundTruth, knowledge: Knowledge) -> list[object]:
    model = context.server.model
    assert model is not None
    update = client_update(model, truth.images, truth.labels)
    server = granted(context.server, knowledge)
    return list(reachable([server, observe(truth, update, knowledge, seed=1)]))


def all_grants() -> list[Knowledge]:
    kinds = list(Knowledge)
    return [
        Knowledge(sum(kind.value for kind in chosen))
        for n in range(len(kinds) + 1)
        for chosen in combinations(kinds, n)
    ]


@pytest.mark.parametrize("knowledge", all_grants(), ids=lambda k: "+".join(k.names()) or "nothing")
def test_no_ungranted_truth_can_be_reached(
    context: EvaluationContext, knowledge: Knowledge
) -> None:
    truth = victim_batches(context, batch_size=8, individuals=8)[0]
    seen = seen_with(context, truth, knowledge)
    assert not any(isinstance(found, GroundTruth | EvaluationContext) for found in seen)
    assert not holds(seen, truth.images)
    assert holds(seen, truth.features) == (Knowledge.FEATURES in knowledge)
    int_tensors = [t for t in seen if isinstance(t, Tensor) and t.shape == truth.labels.shape]
    ordered = [t for t in int_tensors if torch.equal(t, truth.labels.sort().values)]
    assert bool(ordered) == (Knowledge.LABELS in knowledge)
    for present in truth.properties.values():
        assert not any(isinstance(t, Tensor) and t is present for t in seen)
        assert not any(t.dtype == torch.bool for t in int_tensors)
    models = [found for found in seen if found is context.server.model]
    assert bool(models) == (Knowledge.MODEL in knowledge)
    auxiliary = [found for found in seen if found is context.server.auxiliary]
    assert bool(auxiliary) == (Knowledge.AUXILIARY in knowledge)
    space = [found for found in seen if found is context.server.feature_space]
    assert bool(space) == (Knowledge.MODEL | Knowledge.AUXILIARY in knowledge)


def test_what_is_no_knowledge_is_handed_on_whatever_is_granted(
    context: EvaluationContext,
) -> None:
    defense = DEFENSES.get("none")()
    whole = replace(
        context.server,
        mode="train",
        learning_rate=0.7,
        compiling="off",
        precision="bfloat16",
        defense=defense,
    )
    server = granted(whole, Knowledge.NOTHING)
    assert (server.model, server.auxiliary, server.feature_space, server.defense) == (None,) * 4
    assert (server.mode, server.learning_rate) == ("train", 0.7)
    assert (server.compiling, server.precision) == ("off", "bfloat16")
    assert granted(whole, Knowledge.DEFENSE).defense is defense


def test_the_harness_hands_over_what_an_attack_declares_not_all_that_is_granted(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    prior = ATTACKS.get("prior")
    infer = prior.infer

    def spy(self: Attack, server: Server, observations: list[Any], progress: Any) -> Any:
        seen.extend([server, *observations])
        return infer(self, server, observations, progress)

    monkeypatch.setattr(prior, "infer", spy)
    cell = Cell(
        **context.setup.model_dump(),
        attack="prior",
        batch_size=2,
        individuals=4,
        grant=("model", "update", "auxiliary", "labels", "features"),
    )
    measure(ResolvedCell.of(cell), [context], lambda share: None)
    server, first, _ = seen
    assert isinstance(server, Server)
    assert server.model is None
    assert server.feature_space is None
    assert server.auxiliary is not None
    assert first.update is first.labels is first.features is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", ["feature", "ul", "blind"])
def test_only_an_adaptive_attack_sees_the_defense_and_none_its_random_draws(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch, name: str, known: bool
) -> None:
    seen: list[Any] = []
    plugin = ATTACKS.get(name)
    infer = plugin.infer

    def spy(self: Attack, server: Server, observations: list[Any], progress: Any) -> Any:
        seen.extend([server, observations])
        return infer(self, server, observations, progress)

    monkeypatch.setattr(plugin, "infer", spy)
    short = {"feature": {"budget": 2}, "ul": {"batches": 10}, "blind": {}}[name]
    cell = Cell(
        **context.setup.model_dump(),
        attack=name,
        attack_parameters=short,
        batch_size=2,
        individuals=4,
        defense="gaussian",
        defense_parameters={"sigma": 0.01},
        grant=("model", "update", "auxiliary", "labels", *(["defense"] if known else [])),
    )
    record = measure(ResolvedCell.of(cell), [context], lambda share: None)
    server = seen[0]
    optional_knowledge = known and name != "blind"
    assert (server.defense is not None) == optional_knowledge
    assert ("defense" in record.knowledge) == optional_knowledge
    everything = list(reachable(seen))
    assert not any(isinstance(found, torch.Generator | Client) for found in everything)
    model = context.server.model
    assert model is not None
    for truth in victim_batches(context, 2, 4):
        for plain in client_update(model, truth.images, truth.labels).values():
            alike = (t for t in everything if isinstance(t, Tensor) and t.shape == plain.shape)
            assert not any(torch.equal(t, plain) for t in alike)


@pytest.mark.parametrize("name", ["feature", "ig", "ul"])
def test_to_know_that_there_is_no_defense_changes_nothing(
    context: EvaluationContext, name: str
) -> None:
    short = {"batches": 10} if name == "ul" else {"budget": 4}
    known = ("model", "update", "auxiliary", "labels")
    static, adaptive = (
        measure(
            ResolvedCell.of(
                Cell(
                    **context.setup.model_dump(),
                    attack=name,
                    attack_parameters=short,
                    batch_size=2,
                    individuals=8,
                    grant=grant,
                )
            ),
            [context],
            lambda share: None,
        )
        for grant in (known, (*known, "defense"))
    )
    assert static.metrics == adaptive.metrics


def test_victims_are_different_people_as_long_as_there_are_others(
    context: EvaluationContext,
) -> None:
    who = context.individuals.identities[context.split.victims]
    people = len(np.unique(who))
    truths = victim_batches(context, 1, people)
    shown = torch.stack([truth.images[0] for truth in truths])
    pool = to_images(context.individuals.images[context.split.victims])
    rows = [int((pool == image).flatten(1).all(1).nonzero()[0]) for image in shown]
    assert len(set(who[rows])) == people


def test_the_search_does_find_what_is_there(context: EvaluationContext) -> None:
    truth = victim_batches(context, batch_size=8, individuals=8)[0]
    assert holds(list(reachable([{"hidden": [truth]}])), truth.images)
    assert holds(list(reachable([context.individuals.images])), truth.images)
    part_of_a_larger_storage = torch.cat([torch.zeros(3, 32, 32)[None], truth.images])[:1]
    assert holds([part_of_a_larger_storage], truth.images)


def test_labels_are_granted_as_a_multiset(context: EvaluationContext) -> None:
    for truth in victim_batches(context, batch_size=8, individuals=32):
        labels = observe(truth, {}, Knowledge.LABELS, seed=0).labels
        assert labels is not None
        assert torch.equal(labels, truth.labels.sort().values)


def test_nobody_in_d_aux_is_a_victim_or_a_client(context: EvaluationContext) -> None:
    split, who = context.split, context.individuals.identities
    auxiliary = set(who[split.auxiliary])
    assert auxiliary.isdisjoint(who[split.victims])
    assert auxiliary.isdisjoint(who[np.concatenate(split.clients)])


def test_victims_are_the_same_at_every_batch_size(context: EvaluationContext) -> None:
    single, eight = (victim_batches(context, size, individuals=32) for size in (1, 8))
    for part in ("images", "labels", "features"):
        one = torch.cat([getattr(truth, part) for truth in single])
        assert torch.equal(one, torch.cat([getattr(truth, part) for truth in eight]))


@pytest.mark.parametrize(
    ("batch_size", "individuals", "named"),
    [(100, 100, "batch size 100"), (1, 1000, "1000 individuals")],
)
def test_too_few_victims_are_refused(
    context: EvaluationContext, batch_size: int, individuals: int, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        victim_batches(context, batch_size, individuals)


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_is_refused_without_each_thing_it_needs(name: str) -> None:
    attack: Attack = build(ATTACKS, name, {})
    check_grant(attack, attack.required_knowledge)
    for kind in attack.required_knowledge:
        with pytest.raises(UsageError, match=f"'{name}' needs to know {kind.names()[0]}"):
            check_grant(attack, attack.required_knowledge & ~kind)


def test_a_batch_beyond_an_attack_s_limit_is_refused() -> None:
    check_batch_size(build(ATTACKS, "idlg", {}), 1)
    with pytest.raises(UsageError, match="'idlg' is defined up to B = 1, not for B = 2"):
        check_batch_size(build(ATTACKS, "idlg", {}), 2)


def test_no_signature_on_the_attack_s_side_mentions_a_truth() -> None:
    methods: list[Callable[..., Any]] = [
        method
        for name in ATTACKS.names()
        for member, method in inspect.getmembers(ATTACKS.get(name), inspect.isfunction)
        # What dataclasses generate takes the fields, whose types the module may not name.
        if method.__module__.startswith(("leakbench.attacks.", "leakbench.baselines."))
        and member != "__init__"
    ]
    assert methods
    names = {"Server": Server}
    for method in methods:
        assert GroundTruth not in get_type_hints(method, localns=names).values()
