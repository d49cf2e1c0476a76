"""Attacks on the batches of an audit, by the harness; and what they earn above being blind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel

from leakbench.auditing.case import Batch, Case
from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.base.seeds import digest, seed_for
from leakbench.evaluation.measuring import Exchange, infer
from leakbench.evaluation.scoring import groupings_of, match_all, ordered_scores, score
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics import estimates as metrics
from leakbench.metrics.classification import balanced_accuracy
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Metrics
from leakbench.threat.attack import Attack, AttackResult, Progress, check_batch_size, check_grant
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth, Observation
from leakbench.threat.validation import check_results

FEWEST = 5
"""Batches, and people where somebody is shown twice, from which on an interval is believed."""

Attacks = Mapping[str, Mapping[str, Any]]
"""Names of attacks and controls → parameters."""


@dataclass(frozen=True)
class Attacked:
    """What an attack made of the batches.

    Attributes:
        attack: with its parameters.
        knowledge: what it was told.
        results: one for each batch, None for controls on batches whose truth is not known; none
            at all where the attack was refused.
        refused: why it could not run; empty if it could.
        seconds: that it took.
        metrics: over the batches whose truth is known; None where there is none.
        lead: property → balanced accuracy above the blind control's, on the same individuals.
        changes: how far what was sent is from the gradient, batch by batch; none without a defense.
    """

    attack: Attack
    knowledge: Knowledge
    results: tuple[AttackResult | None, ...] = ()
    refused: str = ""
    seconds: float = 0.0
    metrics: Metrics | None = None
    lead: Mapping[str, Estimate] = field(default_factory=dict)
    changes: tuple[float, ...] = ()


def default_attacks(case: Case, budget: int) -> dict[str, dict[str, Any]]:
    """Return the attacks of which at least one fits any head; those that do not say so."""
    known = case.threat.labels_known
    labels = "known" if known else "counts"
    try:
        assert case.model.output_bias
    except UsageError:
        labels = "known" if known else "joint"
    names = ("mask_demixing", "newton_demixing", "feature_lbfgs")
    return {name: {"budget": budget, "labels": labels} for name in names}


def with_controls(attacks: Attacks, case: Case) -> dict[str, dict[str, Any]]:
    """Return attacks with the controls that say what their numbers are worth."""
    if not case.known:
        return {name: dict(parameters) for name, parameters in attacks.items()}
    labels = "known" if case.threat.labels_known else "ignored"
    controls: dict[str, dict[str, Any]] = {"prior": {}, "blind": {"labels": labels}, "oracle": {}}
    return {**controls, **{name: dict(parameters) for name, parameters in attacks.items()}}


def attack_all(
    case: Case,
    attacks: Attacks,
    batches: Sequence[Batch],
    say: Callable[[str], None],
    compiling: Compiling = "auto",
) -> dict[str, Attacked]:
    """Run attacks and controls on batches; one that cannot run says why, and the others go on."""
    done: dict[str, Attacked] = {}
    for name, parameters in attacks.items():
        attack: Attack = build(ATTACKS, name, parameters)
        if not attack.control:
            say(f"attacking with {name}")
        try:
            done[name] = _attacked(case, attack, batches, compiling)
        except UsageError as error:
            done[name] = Attacked(attack, attack.required_knowledge, refused=str(error))
    blind = done.get("blind")
    if blind is None or blind.refused:
        return done
    return {
        name: each
        if each.refused or each.attack.control
        else replace(each, lead=_leads(case, batches, each.results, blind.results))
        for name, each in done.items()
    }


def _attacked(
    case: Case, attack: Attack, batches: Sequence[Batch], compiling: Compiling
) -> Attacked:
    """Run one attack on batches of all sizes and kinds, and score those whose truth is known.

    Raises:
        UsageError: it cannot run on one of them.
    """
    results: list[AttackResult | None] = [None] * len(batches)
    seconds, changes, knowledge = 0.0, [0.0] * len(batches), attack.required_knowledge
    for rows in _alike(batches):
        some = [batches[row] for row in rows]
        if attack.control and some[0].truth is None:
            continue  # A control is there to be scored.
        cell = _cell(case, attack, some[0], sum(batch.size for batch in some))
        check_grant(attack, Knowledge.parse(cell.grant))
        check_batch_size(attack, some[0].size)
        exchange = Exchange.of(ResolvedCell.of(cell))
        knowledge = exchange.knowledge
        if some[0].truth is None:
            found, took = _of_unknown(case, attack, exchange, some, compiling)
            errors: Iterable[float] = []
        else:
            truths = [batch.truth for batch in some if batch.truth is not None]
            sent = [batch.update for batch in some if batch.update is not None]
            answers = infer(
                attack, truths, exchange, case.context, _silent, compiling, sent or None
            )
            found, took, errors = answers.results, answers.seconds, answers.changes
        for row, result in zip(rows, found, strict=True):
            results[row] = result
        for row, error in zip(rows, errors, strict=False):
            changes[row] = error
        seconds += took
    scored = None
    truths, of_known = _known(batches, results)
    if truths:
        cell = _cell(case, attack, batches[0], sum(map(len, truths)))
        scored = score(truths, of_known, cell, case.context)
        if not enough_for_intervals(truths):
            scored = without_intervals(scored)
    return Attacked(
        attack=attack,
        knowledge=knowledge,
        results=tuple(results),
        seconds=seconds,
        metrics=scored,
        changes=tuple(changes) if any(b.defense["name"] != "none" for b in batches) else (),
    )


def _alike(batches: Sequence[Batch]) -> list[list[int]]:
    """Return the rows of batches that the harness takes together: of one size and kind."""
    groups: dict[str, list[int]] = {}
    for row, batch in enumerate(batches):
        known, captured = batch.truth is not None, batch.update is not None
        key = digest(batch.size, known, captured, dict(batch.defense), batch.learning_rate)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _cell(case: Case, attack: Attack, batch: Batch, individuals: int) -> Cell:
    """Return the harness's description of an attack on batches like this."""
    grant = ["model", "update", "auxiliary"]
    if case.threat.labels_known:
        grant.append("labels")
    if batch.defense["name"] != "none":
        grant.append("defense")
    if attack.control and Knowledge.FEATURES in attack.required_knowledge:
        grant.append("features")  # The oracle's, which is no server's.
    parameters = {key: value for key, value in batch.defense.items() if key != "name"}
    return Cell.model_validate(
        {
            **case.context.setup.model_dump(),
            "learning_rate": batch.learning_rate,
            "attack": attack.name,
            "attack_parameters": parameters_of(attack),
            # Of each client; several may stand behind one update.
            "batch_size": batch.size,
            "individuals": individuals,
            "mode": case.threat.mode,
            "grant": tuple(grant),
            "defense": batch.defense["name"],
            "defense_parameters": parameters,
        }
    )


def _of_unknown(
    case: Case, attack: Attack, exchange: Exchange, batches: Sequence[Batch], compiling: Compiling
) -> tuple[list[AttackResult], float]:
    """Show an attack updates of which nobody knows the truth; return its answers and seconds.

    Raises:
        UsageError: it needs to see more than updates, or its answer is malformed.
    """
    knowledge = exchange.knowledge
    beyond = knowledge & (Knowledge.LABELS | Knowledge.STATISTICS | Knowledge.OUTPUTS)
    if beyond:
        raise UsageError(
            f"attack {attack.name!r} needs to know {' and '.join(beyond.names())} of batches whose "
            f"truth is not given; give it, or choose parameters that need less"
        )
    server = exchange.server(case.context.server, compiling)
    observations = [
        Observation(
            batch_size=batch.size,
            # As the harness seeds it, so that to know the truth changes no answer.
            seed=exchange.attack_seed(attack, number),
            update=batch.update if Knowledge.UPDATE in knowledge else None,
        )
        for number, batch in enumerate(batches)
    ]
    started = time.perf_counter()
    results = attack.infer(server, observations, _silent)
    check_results(attack.name, results, observations, server)
    return results, time.perf_counter() - started


_silent: Progress = lambda _share: None  # noqa: E731


def _known(
    batches: Sequence[Batch], results: Sequence[AttackResult | None]
) -> tuple[list[GroundTruth], list[AttackResult]]:
    """Return the truths that are known, and the answers for them."""
    pairs = [
        (batch.truth, result)
        for batch, result in zip(batches, results, strict=True)
        if batch.truth is not None and result is not None
    ]
    return [truth for truth, _ in pairs], [result for _, result in pairs]


def _leads(
    case: Case,
    batches: Sequence[Batch],
    mine: Sequence[AttackResult | None],
    blind: Sequence[AttackResult | None],
) -> dict[str, Estimate]:
    """Return by how much an attack's balanced accuracy is above the blind control's.

    Both answer for the same individuals, so that what is common to both falls out of the doubt.
    """
    truths, of_mine = _known(batches, mine)
    if not truths:
        return {}
    _, of_blind = _known(batches, blind)
    groupings = groupings_of(truths)
    seed = seed_for("bootstrap", case.threat.seed) % 2**32
    orders = [match_all(truths, answers)[0] for answers in (of_mine, of_blind)]
    found = {}
    for name in case.context.server.properties:
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        scores = [
            ordered_scores(answers, order, name)
            for answers, order in zip((of_mine, of_blind), orders, strict=True)
        ]

        def lead(
            weights: metrics.Weights,
            scores: Sequence[np.ndarray] = scores,
            present: np.ndarray = present,
        ) -> metrics.Weights:
            own, control = (balanced_accuracy(s, present, weights) for s in scores)
            difference: metrics.Weights = own - control
            return difference

        found[name] = metrics.estimate(lead, groupings, seed)
    return found if enough_for_intervals(truths) else without_intervals(found)


def enough_for_intervals(truths: Sequence[GroundTruth]) -> bool:
    """Whether what the bootstrap resamples is enough that its intervals can be believed."""
    return all(len(set(groups.tolist())) >= FEWEST for groups in groupings_of(truths))


Found = TypeVar("Found")


def without_intervals(found: Found) -> Found:
    """Return results whose estimates have no interval: of one group it would have no width."""
    changed: Any = found
    if isinstance(found, Estimate):
        changed = found.model_copy(update={"low": None, "high": None})
    elif isinstance(found, BaseModel):
        parts = {name: without_intervals(part) for name, part in found}
        changed = found.model_copy(update=parts)
    elif isinstance(found, dict):
        changed = {name: without_intervals(part) for name, part in found.items()}
    return changed  # type: ignore[no-any-return]
