"""The verdict on the whole audit, and the sentence that says it."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.auditing.exposure import ExposedIndividual
from leakbench.auditing.findings import DefenseEffect, Finding
from leakbench.auditing.report_parts import (
    AttackReport,
    AuditedUpdate,
    Verdict,
    attacks_run,
    is_shown,
)
from leakbench.auditing.sentences import percent, reason_text
from leakbench.auditing.verdicts import verdict_on
from leakbench.metrics.formatting import counted


def overall_verdict(
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    exposed: Sequence[ExposedIndividual],
) -> Verdict:
    """Return whether the attacks learn something from the updates as they were sent.

    Certified features, exact ones and shown advantages are facts even where captured updates are
    not what the model computes, since the truth confirms them; that nothing leaks is then not
    known.

    Args:
        attacks: with the controls, on these updates.
        exposed: see `leakbench.auditing.exposure.exposed_individuals`.
    """
    found = verdict_on(attacks)
    certified = sum(bool(each.certified_by) for each in exposed)
    if certified:
        return Verdict(
            outcome="leaks",
            reason="certified features",
            certified=certified,
            not_run=found.not_run,
        )
    if found.reason in ("exact features", "advantage"):
        return found
    if any(update.check == "differs" for update in updates):
        return Verdict(outcome="undecided", reason="updates differ", not_run=found.not_run)
    if not any(update.truth_known for update in updates):
        return Verdict(outcome="undecided", reason="truth unknown", not_run=found.not_run)
    return found


def verdict_sentence(
    verdict: Verdict,
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    findings: Sequence[Finding],
    more_batches: int | None = None,
) -> str:
    """Return the verdict as one sentence.

    Args:
        more_batches: about so many would decide it; None where that is not known.
    """
    match verdict.outcome:
        case "leaks":
            text = f"{_subject(updates)} leak: {_leak(verdict, updates, attacks)}"
        case "no leak":
            text = f"No leak was found: {reason_text(verdict)} for every attack and property"
        case _:
            text = f"Undecided whether the updates leak: {reason_text(verdict)}"
            if more_batches is not None:
                more = counted(more_batches, "more batch", "more batches")
                text += f"; about {more} of the same kind would decide it"
    return f"{text}{_on_defenses(findings) if verdict.outcome == 'leaks' else ''}."


def _subject(updates: Sequence[AuditedUpdate]) -> str:
    """Return whose leak a sentence begins with; first that captured updates differ, if they do."""
    differing = sum(update.check == "differs" for update in updates)
    if not differing:
        return "The updates"
    captured = sum(update.captured for update in updates)
    return (
        f"{differing} of {captured} captured updates are not what the model computes; even so the "
        f"updates"
    )


def _leak(
    verdict: Verdict, updates: Sequence[AuditedUpdate], attacks: Sequence[AttackReport]
) -> str:
    parts = []
    if verdict.certified:
        individuals = sum(update.size for update in updates)
        checked = any(update.truth_known for update in updates)
        parts.append(
            f"a server can compute the exact deep features of {verdict.certified} of {individuals} "
            f"individuals{'' if checked else ', by certificates that no truth was there to check'}"
        )
    if verdict.exact is not None:
        parts.append(
            f"a server can compute {percent(verdict.exact)} % of the individuals' deep features "
            f"exactly, as the truth shows, though it cannot certify them"
        )
    shown = [
        (advantage.low, name, attack.title, advantage)
        for attack in attacks_run(attacks)
        for name, advantage in attack.advantage.items()
        if is_shown(advantage)
    ]
    if shown:
        _, name, title, advantage = max(shown, key=lambda each: each[0] or 0.0)
        parts.append(
            f"{title} infers {name} with a balanced accuracy {percent(advantage, sign=True)} "
            f"points above the best baseline"
        )
    return ", and ".join(parts)


def _on_defenses(findings: Sequence[Finding]) -> str:
    effects = [each for each in findings if isinstance(each, DefenseEffect)]
    if not effects:
        return ""
    stopping = [label for each in effects if each.effect == "stopped" for label in each.defenses]
    tried = sum(len(each.defenses) for each in effects)
    where = " in simulated clients" if any(each.simulated_otherwise for each in effects) else ""
    if tried == 1:
        label, stops = effects[0].defenses[0], "stops" if stopping else "is not shown to stop"
        return f"; the only defense that was tried{where}, {label}, {stops} the attacks"
    by = " and ".join(filter(None, (", ".join(stopping[:-1]), *stopping[-1:]))) or "none"
    stops = ("stop" if len(stopping) > 1 else "stops") if stopping else "is shown to stop"
    return f"; of {tried} defenses that were tried{where}, {by} {stops} the attacks"
