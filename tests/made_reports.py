"""Reports of audits that never ran, to state facts about what is made of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakbench import Report
from leakbench.auditing.coverage import not_tested
from leakbench.auditing.exposure import exposed_individuals
from leakbench.auditing.findings import findings_of
from leakbench.auditing.more_batches import batches_to_verdict, undecided_properties
from leakbench.auditing.overall_verdict import overall_verdict, verdict_sentence
from leakbench.auditing.report_parts import (
    Answer,
    AttackReport,
    AuditedUpdate,
    AuxiliaryReport,
    DefenseReport,
    Individual,
    ModelReport,
    Verdict,
)
from leakbench.auditing.sentences import sentence
from leakbench.auditing.worst_case import WorstCase
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Metrics, PropertyMetrics

NO_INTERVAL = Estimate(value=0.2, low=None, high=None)

SHOWN, EXCLUDED, WIDE = (
    Estimate(value=value, low=low, high=high)
    for value, low, high in ((0.3, 0.2, 0.4), (0.0, -0.05, 0.05), (0.05, -0.1, 0.2))
)
"""Advantages: of a leak, of none, and of what is undecided."""


def metrics(**accuracies: float) -> Metrics:
    """Metrics in which each property has this balanced accuracy."""
    certain = Estimate(value=0.5, low=0.4, high=0.6)
    return Metrics(
        properties={
            name: PropertyMetrics(
                accuracy=certain,
                balanced_accuracy=Estimate(value=value, low=value - 0.1, high=value + 0.1),
                auc=certain,
                count_error=certain,
                prevalence=0.5,
                in_main_task=False,
            )
            for name, value in accuracies.items()
        },
        feature_cosine=None,
        exact=None,
        label_accuracy=None,
        diverged=0.0,
        main_task={},
        classes=4,
    )


def attack(
    name: str, advantage: Mapping[str, Estimate] | None = None, **changed: Any
) -> AttackReport:
    """An attack with these advantages, by property; a control if it is named `prior`."""
    advantage = dict(advantage or {})
    control = name == "prior"
    accuracies = {subject: 0.5 + (each.value or 0.0) for subject, each in advantage.items()}
    arguments: dict[str, Any] = {
        "name": name,
        "title": name.capitalize(),
        "reference": "nobody",
        "note": "",
        "control": control,
        "knows": ["update"],
        "parameters": {},
        "refused": "",
        "seconds": 1.0,
        "certified": None,
        "metrics": metrics(**(accuracies or {"bright": 0.5})),
        "advantage": {} if control else advantage,
        "baselines": {} if control else dict.fromkeys(advantage, "prior"),
    }
    return AttackReport(**(arguments | changed))


def answer(right: Mapping[str, bool] | None = None, **probabilities: float) -> Answer:
    """An answer without a certificate."""
    return Answer(probabilities=probabilities, right=None if right is None else dict(right))


def update(
    name: str, answers: Sequence[Mapping[str, Answer]], known: bool = True, check: str = "agrees"
) -> AuditedUpdate:
    """An update with the answers for each individual, by attack."""
    return AuditedUpdate.model_validate(
        {
            "name": name,
            "size": len(answers),
            "defense": {"name": "none"},
            "captured": True,
            "learning_rate": 0.1,
            "truth_known": known,
            "mismatch": 0.0 if known else None,
            "check": check,
            "individuals": [
                Individual(
                    name=f"{name}/{row}",
                    label=0 if known else None,
                    properties={"bright": True} if known else None,
                    answers=dict(of),
                ).model_dump()
                for row, of in enumerate(answers)
            ],
        }
    )


def answered(
    update: AuditedUpdate, attacks: Sequence[AttackReport], subjects: Sequence[str]
) -> AuditedUpdate:
    """An update with a wrong answer of each attack that has none for an individual."""
    wrong = dict.fromkeys(subjects, False) if update.truth_known else None
    missing = Answer(probabilities=dict.fromkeys(subjects, 0.5), right=wrong)
    by_default = {a.name: missing for a in attacks if not a.refused}
    individuals = [
        each.model_copy(update={"answers": by_default | each.answers})
        for each in update.individuals
    ]
    return update.model_copy(update={"individuals": individuals})


def defense(name: str, outcome: str, reason: str, **changed: Any) -> DefenseReport:
    """A defense with a verdict."""
    arguments: dict[str, Any] = {
        "name": name,
        "parameters": {},
        "refused": "",
        "individuals": 8,
        "left_out": 0,
        "attacks": [],
        "distortion": None,
        "utility": None,
        "utility_cost": None,
        "utility_not_measured": "",
        "epsilon": None,
        "delta": None,
        "verdict": Verdict.model_validate({"outcome": outcome, "reason": reason, "bound": 0.05}),
    }
    return DefenseReport(**(arguments | changed))


def report(
    attacks: Sequence[AttackReport],
    updates: Sequence[AuditedUpdate] = (),
    defenses: Sequence[DefenseReport] = (),
    **changed: Any,
) -> Report:
    """The report of these parts; the control `prior` is added."""
    subjects = list(next((a.advantage for a in attacks if a.advantage), {"bright": None}))
    prior = attack("prior", metrics=metrics(**dict.fromkeys(subjects, 0.5)))
    every, defenses = [prior, *attacks], list(defenses)
    updates = [answered(each, attacks, subjects) for each in updates]
    findings = findings_of(updates, every, defenses)
    exposed = exposed_individuals(updates, every)
    verdict = overall_verdict(updates, every, exposed)
    return Report(
        **{
            "leakbench": "0",
            "finished": "2026-11-30T10:00:00+00:00",
            "model": ModelReport(
                name="net.py:Net",
                split="features",
                features=8,
                classes=4,
                trained=100,
                extractor=["features.weight"],
                head=["head.weight"],
                accuracy=0.5,
            ),
            "threat": {
                "mode": "eval",
                "labels_known": False,
                "defense": None,
                "property_model": "logistic",
                "seed": 0,
            },
            "auxiliary": AuxiliaryReport(
                individuals=10, labelled=10, properties=dict.fromkeys(subjects, 0.5)
            ),
            "verdict": verdict,
            "verdict_sentence": verdict_sentence(
                verdict,
                updates,
                every,
                findings,
                batches_to_verdict(updates, every) if verdict.reason == "wide interval" else None,
            ),
            "exposed": exposed,
            "worst_cases": [WorstCase(subject="bright", present=0, absent=0, not_measured="few")],
            "undecided": undecided_properties(updates, every),
            "not_tested": not_tested(subjects, updates, every, defenses),
            "findings": [sentence(each) for each in findings],
            "findings_as_data": findings,
            "limitations": ["These numbers are made up."],
            "attacks": every,
            "updates": updates,
            "defenses": defenses,
        }
        | changed
    )
