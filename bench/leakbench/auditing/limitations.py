"""What limits the findings of an audit, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from leakbench.auditing.active_units import on_active_units
from leakbench.auditing.case import Case
from leakbench.auditing.intervals import enough_for_intervals
from leakbench.auditing.report_parts import AttackReport, AuditedUpdate, DefenseReport
from leakbench.auditing.update_check import ROUNDING
from leakbench.auditing.verdicts import RELEVANT_ADVANTAGE
from leakbench.metrics.estimates import MIN_GROUPS

EQUAL_LOGITS = 1e-4
"""Standard deviation of logits below which exact attacks cannot tell individuals apart, since their
errors differ by little more than rounding."""

FEW_BATCHES = 20
"""Batches below which intervals are so wide that the absence of a leak can hardly be shown."""


def limitations_of(
    case: Case,
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
    interrupted: bool = False,
) -> list[str]:
    """Return what limits the findings."""
    return [
        *(
            ["The audit was interrupted: parts that are not listed were not run."]
            if interrupted
            else []
        ),
        *(f"Left out: {why}." for why in case.left_out),
        *case.notes,
        *_on_outputs(case),
        *_on_checks(case),
        *_on_batches(case, updates),
        *_on_model(case),
        *_on_demixing(case, attacks),
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


def _on_outputs(case: Case) -> list[str]:
    """Return that the model tells nobody apart, if that is so."""
    space = case.server.feature_space
    assert space is not None
    with torch.no_grad():
        logits = case.model.classifier(space.features)
    spread = float(logits.double().std(0).max())
    if not spread < EQUAL_LOGITS:
        return []
    return [
        f"The model returns nearly the same logits for everybody in D_aux (standard deviation "
        f"{spread:.1g}), as deep networks do that are not trained. Attacks then find less than "
        f"with trained weights: audit the weights, and running statistics of BatchNorm, that "
        f"clients will have."
    ]


def _on_checks(case: Case) -> list[str]:
    """Return what was not compared, or only roughly."""
    checks = [check for check in case.checks if check is not None]
    reasons = Counter(check.reason for check in checks if check.outcome == "not checked")
    found = [
        f"Whether {count} of {len(checks)} captured updates are what the model computes was not "
        f"checked: {reason}. Another loss, optimiser, learning rate, number of steps, weight decay "
        f"or scaling of pixels would go unnoticed, and attacks assume none."
        for reason, count in reasons.items()
    ]
    rough = [
        check.resolution
        for check in checks
        if check.outcome == "agrees" and (check.resolution or 0.0) > ROUNDING
    ]
    if rough:
        found.append(
            f"{len(rough)} captured updates agree with their truth as far as their randomness "
            f"(order of mini-batches, noise) lets one see: a difference below "
            f"{max(each or 0.0 for each in rough):.0%} would go unnoticed."
        )
    return found


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
            f"The truth is known of {len(known)} batches only: intervals are wide, and it can "
            f"hardly be shown that there is no leak."
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
    found += _on_inputs(case)
    if case.model.has_dropout:
        found.append("The model has dropout, which is inactive here.")
    return found


def _on_inputs(case: Case) -> list[str]:
    """Return what else the update shows of inputs that are no images."""
    found = []
    space, auxiliary = case.server.feature_space, case.server.auxiliary
    assert space is not None and auxiliary is not None
    if case.kind == "rows" and torch.equal(space.features, auxiliary.images):
        found.append(
            "The head begins at the model's input: the deep features are the rows themselves, and "
            "a certified feature is an individual's whole row."
        )
    embeddings = [m for m in case.model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    if case.kind != "images" and any(isinstance(m.weight, nn.Parameter) for m in embeddings):
        found.append(
            "The gradient of the embedding shows which tokens are in a batch: other rows are 0. No "
            "attack here uses or counts that; freeze the embedding to hide it."
        )
    return found


def _on_demixing(case: Case, attacks: Sequence[AttackReport]) -> list[str]:
    individuals = sum(batch.size for batch in case.batches)
    incomplete = any(
        a.name == "mask_demixing" and not a.refused and (a.certified or 0) < individuals
        for a in attacks
    )
    return on_active_units(case) if incomplete else []


def _on_defenses(case: Case, defenses: Sequence[DefenseReport]) -> list[str]:
    found = [f"{d.label} was not tried: {d.refused}." for d in defenses if d.refused]
    if any(d.name == "local_steps" and not d.refused for d in defenses):
        rates = sorted({batch.learning_rate for batch in case.known_batches})
        listed = ", ".join(f"{rate:g}" for rate in rates)
        found.append(f"Further local steps are tried with learning rate {listed}.")
    failed = dict.fromkeys(title for d in defenses for title in d.failed_before)
    found += [
        f"{title} was not tried under defenses: without one it certifies nothing, and an advantage "
        f"of more than {100 * RELEVANT_ADVANTAGE:.0f} points is excluded. What is said of defenses "
        f"is about the other attacks."
        for title in failed
    ]
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
