"""The report from the results of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from leakbench.auditing.attack_reports import attack_report
from leakbench.auditing.attacking import Attacked, runs_of_known
from leakbench.auditing.case import Case
from leakbench.auditing.client_batches import Batch, KnownBatch
from leakbench.auditing.coverage import not_tested
from leakbench.auditing.defending import Defended
from leakbench.auditing.exposure import exposed_individuals
from leakbench.auditing.findings import findings_of
from leakbench.auditing.hardest import hardest_individuals, hardest_rows
from leakbench.auditing.limitations import limitations_of
from leakbench.auditing.more_batches import batches_to_verdict, undecided_properties
from leakbench.auditing.overall_verdict import overall_verdict, verdict_sentence
from leakbench.auditing.quick import LEFT_OUT
from leakbench.auditing.report import Report
from leakbench.auditing.report_parts import (
    Answer,
    AuditedUpdate,
    AuxiliaryReport,
    DefenseReport,
    Individual,
    ModelReport,
    Verdict,
)
from leakbench.auditing.sentences import sentence
from leakbench.auditing.update_check import differing
from leakbench.auditing.verdicts import verdict_on
from leakbench.auditing.worst_case import Scores, WorstCase, worst_case
from leakbench.base.seeds import seed_for
from leakbench.evaluation.scoring import groupings_of
from leakbench.evaluation.swapped import swapped_answers
from leakbench.metrics.estimates import Bootstrap
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.attack import AttackResult


def report_of(
    case: Case,
    attacked: Mapping[str, Attacked],
    defended: Sequence[Defended],
    name: str,
    split: str,
    labels: Sequence[str] = (),
    hardest: int = 0,
) -> Report:
    """Return the report of an audit.

    Args:
        attacked: on all batches.
        name, split: of the model.
        labels: the texts of main-task labels.
        hardest: individuals on whom the model errs most, so many are reported apart.
    """
    rows = hardest_rows(case, hardest)
    swapped = {name: _swapped_cosines(each, case) for name, each in attacked.items()}
    updates = [
        _update(case, batch, number, attacked, swapped) for number, batch in enumerate(case.batches)
    ]
    attacks = [attack_report(each) for each in attacked.values()]
    otherwise = differing(case.checks)
    defenses = [_defense(each, otherwise) for each in defended]
    interrupted = any(a.interrupted for a in attacked.values()) or any(
        d.interrupted for d in defended
    )
    model = _model(case, name, split, labels)
    findings = findings_of(updates, attacks, defenses, model)
    exposed = exposed_individuals(updates, attacks)
    verdict = overall_verdict(updates, attacks, exposed)
    auxiliary = case.server.auxiliary
    assert auxiliary is not None
    return Report(
        leakbench=version("leakbench"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        threat=case.threat.model_dump(),
        auxiliary=AuxiliaryReport(
            individuals=len(auxiliary.labels),
            labelled=int((auxiliary.labels >= 0).sum()),
            properties={n: float(p.float().mean()) for n, p in auxiliary.properties.items()},
        ),
        verdict=verdict,
        verdict_sentence=verdict_sentence(
            verdict,
            updates,
            attacks,
            findings,
            batches_to_verdict(updates, attacks) if verdict.reason == "wide interval" else None,
        ),
        exposed=exposed,
        worst_cases=_worst_cases(case, attacked, rows),
        hardest=hardest_individuals(rows.tolist(), updates, exposed) if hardest else None,
        undecided=undecided_properties(updates, attacks),
        not_tested=[
            *([LEFT_OUT] if case.quick else []),
            *not_tested(list(auxiliary.properties), updates, attacks, defenses),
        ],
        findings=[sentence(finding) for finding in findings],
        findings_as_data=findings,
        limitations=limitations_of(case, updates, attacks, defenses, interrupted),
        attacks=attacks,
        updates=updates,
        defenses=defenses,
        interrupted=interrupted,
    )


def _worst_cases(
    case: Case, attacked: Mapping[str, Attacked], hardest: NDArray[np.int64]
) -> list[WorstCase]:
    """Return the worst case in each property; none where no truth is known.

    Args:
        hardest: rows of individuals of whom it is given apart, if any.
    """
    truths = [batch.truth for batch in case.known_batches]
    if not truths:
        return []
    runs = [
        (each.attack, of)
        for each in attacked.values()
        if (of := runs_of_known(each, case.batches, case))
    ]
    bootstrap = Bootstrap(groupings_of(truths), seed_for("bootstrap", case.threat.seed) % 2**32)

    def scores(name: str, control: str | None) -> dict[str, Scores]:
        return {
            attack.title: np.stack([run.matched.scores[name] for run in of])
            for attack, of in runs
            if attack.control == control
        }

    apart = np.isin(np.arange(sum(map(len, truths))), hardest)
    return [
        worst_case(
            name,
            torch.cat([truth.properties[name] for truth in truths]).numpy(),
            scores(name, None),
            scores(name, "baseline"),
            bootstrap,
            of,
        )
        for name in truths[0].properties
        for of in ((None, apart) if len(hardest) else (None,))
    ]


def _model(case: Case, name: str, split: str, labels: Sequence[str]) -> ModelReport:
    model, space = case.model, case.server.feature_space
    assert space is not None
    return ModelReport(
        name=name,
        split=split,
        features=space.features.shape[1],
        classes=model.classes,
        trained=sum(model.get_parameter(ours).numel() for ours in model.names),
        extractor=[t for ours, t in model.names.items() if ours.startswith("extractor.")],
        head=[t for ours, t in model.names.items() if ours.startswith("classifier.")],
        tensors=model.parameter_tensors,
        accuracy=case.accuracy,
        labels=list(labels),
    )


def _defense(defended: Defended, simulated_otherwise: bool) -> DefenseReport:
    attacks = [attack_report(each) for each in defended.attacked.values()]
    utility = defended.utility
    not_applied = Verdict(outcome="not applied", reason="defense refused")
    return DefenseReport(
        name=defended.spec.name,
        parameters=dict(defended.spec.parameters),
        refused=defended.refused,
        individuals=defended.individuals,
        left_out=defended.left_out,
        attacks=attacks,
        distortion=defended.distortion,
        utility=utility.accuracy,
        utility_cost=utility.cost,
        utility_not_measured=utility.not_measured,
        epsilon=utility.epsilon,
        delta=utility.delta,
        verdict=not_applied if defended.refused else verdict_on(attacks),
        simulated_otherwise=simulated_otherwise,
        failed_before=list(defended.failed_before),
    )


Cosines = Sequence[float | None]
"""Of the individuals of a batch, in the order of the truth."""


def _swapped_cosines(attacked: Attacked, case: Case) -> list[Cosines]:
    """Return, by batch, the cosines of an attack's answers for other batches in its first run."""
    runs = [] if attacked.attack.control else runs_of_known(attacked, case.batches, case)[:1]
    matched = [run.matched for run in runs]
    found = swapped_answers(matched, runs[0].truths, case.threat.seed) if runs else None
    if found is None:
        return [[None] * batch.size for batch in case.batches]
    remaining = iter(found.cosines[0].tolist())
    return [
        list(islice(remaining, batch.size))
        if isinstance(batch, KnownBatch)
        else [None] * batch.size
        for batch in case.batches
    ]


def _update(
    case: Case,
    batch: Batch,
    number: int,
    attacked: Mapping[str, Attacked],
    swapped: Mapping[str, Sequence[Cosines]],
) -> AuditedUpdate:
    """Return an update with every attack's answers for its individuals; not the controls'."""
    answers = {
        name: _answers(batch, result, swapped[name][number], case.standardise)
        for name, each in attacked.items()
        if not each.attack.control and each.results and (result := each.results[number]) is not None
    }
    check = case.checks[number]
    return AuditedUpdate(
        name=batch.name,
        size=batch.size,
        defense=batch.defense.table(),
        captured=batch.update is not None,
        learning_rate=batch.learning_rate,
        truth_known=isinstance(batch, KnownBatch),
        mismatch=None if check is None else check.distance,
        check="not captured" if check is None else check.outcome,
        check_reason="" if check is None else check.reason,
        individuals=[
            _individual(batch, row, {name: of[row] for name, of in answers.items()})
            for row in range(batch.size)
        ],
    )


def _individual(batch: Batch, row: int, answers: dict[str, Answer]) -> Individual:
    if not isinstance(batch, KnownBatch):
        return Individual(name=f"individual {row + 1}", answers=answers)
    return Individual(
        name=batch.individuals[row],
        label=int(batch.truth.labels[row]),
        properties={name: bool(p[row]) for name, p in batch.truth.properties.items()},
        answers=answers,
    )


def _answers(
    batch: Batch, result: AttackResult, swapped: Cosines, standardise: Standardisation
) -> list[Answer]:
    """Return an attack's answers, in the order of the truth where it is known."""
    if not isinstance(batch, KnownBatch):
        return [_answer(result, row) for row in range(batch.size)]
    order: list[int] = list(range(batch.size))
    cosines: list[float | None] = [None] * batch.size
    if result.features is not None:
        rows, found = match_individuals(
            standardise(result.features), standardise(batch.truth.features)
        )
        order, cosines = rows.tolist(), found.tolist()
    answers = []
    for place, (row, cosine) in enumerate(zip(order, cosines, strict=True)):
        answer = _answer(result, row)
        right = {
            name: (probability >= 0.5) == bool(batch.truth.properties[name][place])
            for name, probability in answer.probabilities.items()
        }
        known = {"right": right, "cosine": cosine, "swapped_cosine": swapped[place]}
        answers.append(answer.model_copy(update=known))
    return answers


def _answer(result: AttackResult, row: int) -> Answer:
    # Without features, labels are those of the batch, and of no individual in particular.
    named = result.labels is not None and result.features is not None
    return Answer(
        probabilities={name: float(scores[row]) for name, scores in result.scores.items()},
        label=int(result.labels[row]) if named and result.labels is not None else None,
        certified=None if result.certified is None else bool(result.certified[row]),
    )
