"""What limits the findings of an audit, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakbench.auditing.case import Case
from leakbench.auditing.intervals import enough_for_intervals
from leakbench.auditing.report_parts import AttackReport, AuditedUpdate, DefenseReport
from leakbench.metrics.estimates import MIN_GROUPS

ROUNDING = 0.01
"""Relative distance up to which an update is that of its truth, apart from rounding."""

FEW_BATCHES = 20
"""Batches below which intervals are so wide that the absence of a leak can hardly be shown."""


def limitations_of(
    case: Case,
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
) -> list[str]:
    """Return what limits the findings."""
    return [
        *(f"Left out: {why}." for why in case.left_out),
        *_on_mismatch(updates),
        *_on_batches(case, updates),
        *_on_model(case),
        *(f"{a.title} was not run: {a.refused}." for a in attacks if a.refused),
        *_on_defenses(case, defenses),
        "What these attacks do not find is not safe: an attack with a larger budget or other "
        "auxiliary data, or a future one, may find it. Probabilities are those of the property "
        "model, which is trained on D_aux alone.",
        *(
            [
                "Each interval covers 95 %, by batch, and by person where one is shown more than "
                "once; of many properties, attacks and defenses some will show an advantage by "
                "chance."
            ]
            if case.known_batches
            else []
        ),
    ]


def _on_mismatch(updates: Sequence[AuditedUpdate]) -> list[str]:
    far = [u.name for u in updates if u.mismatch is not None and u.mismatch > ROUNDING]
    if not far:
        return []
    return [
        f"{len(far)} captured updates (such as {far[0]!r}) are not what the model computes from "
        f"their truth: another loss or its sum instead of its mean, other scaling of pixels, other "
        f"weights, dropout, another mode or learning rate, momentum or weight decay. Attacks "
        f"assume that they are, so that these findings say little about an attack with the right "
        f"assumptions."
    ]


def _on_batches(case: Case, updates: Sequence[AuditedUpdate]) -> list[str]:
    found = []
    known = [batch.truth for batch in case.known_batches]
    if known and not enough_for_intervals(known):
        found.append(
            f"The truth is known of fewer than {MIN_GROUPS} batches, or people, so that no "
            f"interval is given: an advantage can be neither shown nor excluded."
        )
    elif known and len(known) < FEW_BATCHES:
        found.append(
            f"Only {len(known)} batches have a known truth. Intervals are wide, and the absence of "
            f"a leak is hardly shown."
        )
    if known and len(known) < len(updates):
        found.append(
            f"Accuracy is that on the {len(known)} of {len(updates)} updates whose truth is known."
        )
    if case.unassigned:
        found.append(
            f"{case.unassigned} individuals of the truth are in no update, and are not counted."
        )
    return found


def _on_model(case: Case) -> list[str]:
    found = [
        f"The main task's label alone reveals {name}: within each class of D_aux it is always or "
        f"never present."
        for name in _implied_properties(case)
    ]
    if case.model.has_dropout:
        found.append("The model has dropout, which is inactive here.")
    if case.threat.mode == "eval" and _has_batch_norm(case.model):
        found.append(
            "Clients are assumed to run BatchNorm with its running statistics (mode eval); if "
            "theirs normalise by the batch, set mode train."
        )
    return found


def _on_defenses(case: Case, defenses: Sequence[DefenseReport]) -> list[str]:
    found = [f"{d.label} was not tried: {d.refused}." for d in defenses if d.refused]
    if any(d.name == "local_steps" and not d.refused for d in defenses):
        rates = sorted({batch.learning_rate for batch in case.known_batches})
        listed = ", ".join(f"{rate:g}" for rate in rates)
        found.append(f"Further local steps are tried with learning rate {listed}.")
    found += [
        f"Under {d.label} {d.left_out} individuals are left out, because their batches do not make "
        f"a whole group of clients."
        for d in defenses
        if d.left_out
    ]
    return found


def _implied_properties(case: Case) -> list[str]:
    """Return the properties that are the same for all people of D_aux of one class.

    Classes of one person are left out: they say nothing about others in the class.
    """
    auxiliary = case.server.auxiliary
    assert auxiliary is not None
    classes = [auxiliary.labels == label for label in set(auxiliary.labels.tolist()) if label >= 0]
    classes = [c for c in classes if len(set(auxiliary.identities[c].tolist())) > 1]
    return [
        name
        for name, present in auxiliary.properties.items()
        if classes and all(len(set(present[of_class].tolist())) == 1 for of_class in classes)
    ]


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())
