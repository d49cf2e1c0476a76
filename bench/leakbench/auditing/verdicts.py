"""Whether attacks learn something: a verdict from their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.auditing.report_parts import (
    AttackReport,
    Verdict,
    attacks_run,
    baseline_of,
    is_shown,
    shows_exact_features,
)

RELEVANT_ADVANTAGE = 0.1
"""Balanced accuracy above the best baseline's that must be excluded before nothing leaks."""


def verdict_on(attacks: Sequence[AttackReport]) -> Verdict:
    """Return whether the attacks learn something.

    Args:
        attacks: with the controls.
    """
    refused = [a.title for a in attacks if a.refused and not a.control]
    return _verdict(attacks).model_copy(update={"not_run": refused})


def _verdict(attacks: Sequence[AttackReport]) -> Verdict:
    ran = attacks_run(attacks)
    # Attacks certify the features of the same individuals: a sum would count these twice.
    certified = max(map(_truly_certified, ran), default=0)
    if certified:
        return Verdict(outcome="leaks", reason="certified features", certified=certified)
    exact = [
        a.metrics.exact
        for a in ran
        if a.metrics is not None and a.metrics.exact and shows_exact_features(a, attacks)
    ]
    if exact:
        most = max(exact, key=lambda each: each.low or 0.0)
        return Verdict(outcome="leaks", reason="exact features", exact=most)
    advantages = [each for a in ran for each in a.advantage.values()]
    shown = [each for each in advantages if is_shown(each)]
    if shown:
        best = max(shown, key=lambda each: each.low or 0.0)
        return Verdict(outcome="leaks", reason="advantage", advantage=best)
    if (undecided := _undecidable(attacks)) is not None:
        return undecided
    bound = max(0.0, *(each.high for each in advantages if each.high is not None))
    if bound > RELEVANT_ADVANTAGE:
        return Verdict(outcome="undecided", reason="wide interval", bound=bound)
    return Verdict(outcome="no leak", reason="advantage excluded", bound=bound)


def _truly_certified(attack: AttackReport) -> int:
    """Return the features that an attack certifies, less those that the truth shows false."""
    return (attack.certified or 0) - (attack.false_certificates or 0)


def _undecidable(attacks: Sequence[AttackReport]) -> Verdict | None:
    """Return why no leak could be excluded, however small the advantages; None if one could."""
    if any(a.refused and not a.control for a in attacks):
        return Verdict(outcome="undecided", reason="attack not run")
    advantages = [
        (name, each) for a in attacks if not a.control for name, each in a.advantage.items()
    ]
    without = {
        name
        for a in attacks
        for name in a.advantage
        if not a.control and name not in a.baselines and _balanced_accuracy(a, name) is not None
    }
    if without:
        return Verdict(outcome="undecided", reason="no baseline", properties=sorted(without))
    constant = sorted({name for name, each in advantages if each.value is None})
    if constant or not advantages:
        return Verdict(outcome="undecided", reason="constant property", properties=constant)
    if any(each.low is None for _, each in advantages):
        return Verdict(outcome="undecided", reason="no interval")
    for attack in attacks:
        for name in attack.advantage if not attack.control else ():
            baseline = baseline_of(attack, name, attacks)
            own = _balanced_accuracy(baseline, name) if baseline else None
            if own is not None and 1 - own <= RELEVANT_ADVANTAGE:
                return Verdict(
                    outcome="undecided", reason="accurate baseline", properties=[name], baseline=own
                )
    return None


def _balanced_accuracy(attack: AttackReport, name: str) -> float | None:
    return attack.metrics.properties[name].balanced_accuracy.value if attack.metrics else None
