"""Findings and verdicts as text."""

from __future__ import annotations

import math

from leakbench.auditing.findings import (
    CertifiedFeatures,
    ConstantProperty,
    DefenseEffect,
    ExactFeatures,
    Finding,
    InferredProperty,
    NoBaseline,
    PartlyTrained,
    TruthUnknown,
    UpdatesDiffer,
)
from leakbench.auditing.report_parts import Reason, Verdict
from leakbench.auditing.verdicts import RELEVANT_ADVANTAGE
from leakbench.metrics.estimates import MIN_GROUPS, Estimate


def percent(estimate: Estimate | None, sign: bool = False) -> str:
    """Return a share with its interval in percent.

    >>> percent(Estimate(value=0.5, low=0.25, high=0.75))
    '50.0 [25.0, 75.0]'
    >>> percent(Estimate(value=0.5, low=None, high=None))
    '50.0 (no interval)'
    """
    if estimate is None or estimate.value is None:
        return "–"
    plus = "+" if sign else ""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:{plus}.1f} (no interval)"
    value, low, high = (
        f"{100 * number:{plus}.1f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def sentence(finding: Finding) -> str:
    """Return a finding as a sentence."""
    match finding:
        case UpdatesDiffer():
            text = _on_differing(finding)
        case CertifiedFeatures():
            text = _on_certificates(finding)
        case ExactFeatures():
            text = (
                f"{finding.attack} finds {percent(finding.share)} % of the deep features exactly, "
                f"as the truth shows. It certifies none: a server does not know which are exact."
            )
        case PartlyTrained():
            text = (
                f"Clients train {finding.what}, {finding.trained} of {finding.tensors} parameters: "
                f"attacks have the gradient of these only."
            )
        case TruthUnknown():
            text = (
                "The truth is not known: the report shows what a server would believe of each "
                "individual. How often it would be right cannot be said."
            )
        case InferredProperty():
            text = _on_property(finding)
        case ConstantProperty():
            text = (
                f"{finding.subject}: all individuals have it, or none has, so no accuracy is given."
            )
        case NoBaseline():
            text = (
                f"{finding.subject}: {finding.attack} has a balanced accuracy of "
                f"{percent(finding.accuracy)} %, but no baseline with its knowledge was measured, "
                f"so that it cannot be said how much of that is due to the update."
            )
        case DefenseEffect():
            text = _on_defenses(finding)
            if finding.simulated_otherwise:
                text = f"In simulated clients, not those captured: {text}"
    return text


def _on_certificates(finding: CertifiedFeatures) -> str:
    false = ""
    if finding.false is not None:
        false = f"; of those whose truth is known, {finding.false} certificates are false"
    return (
        f"{finding.attack} certifies the exact deep feature of {finding.certified} of "
        f"{finding.individuals} individuals{false}."
    )


def _on_differing(finding: UpdatesDiffer) -> str:
    distance = "" if finding.mismatch is None else f", relative distance {finding.mismatch:.2g}"
    seen = "from their truth" if finding.mismatch is not None else f"({finding.reason})"
    return (
        f"{finding.differing} of {finding.captured} captured updates (such as {finding.first!r}"
        f"{distance}) are not what the model computes {seen}: another loss or its sum instead of "
        f"its mean, other scaling of pixels, other weights, dropout, another mode, optimiser or "
        f"learning rate, momentum or weight decay, other or more steps. Attacks assume that they "
        f"are, so that these findings say little about an attack with the right assumptions."
    )


def _on_property(finding: InferredProperty) -> str:
    doubt = _doubt(finding)
    if finding.compared > 1:
        doubt += f" (the best of {finding.compared} attacks, chosen afterwards: biased upwards)"
    return (
        f"{finding.subject}: {finding.attack} has a balanced accuracy of "
        f"{percent(finding.accuracy)} %, the best baseline, {finding.control}, "
        f"{percent(finding.baseline)} %; its advantage is "
        f"{percent(finding.advantage, sign=True)} points{doubt}."
    )


def _doubt(finding: InferredProperty) -> str:
    """Return what an advantage that is not shown means; nothing where it is shown."""
    if finding.shown:
        return ""
    high = finding.advantage.high
    if high is not None and high < 0:
        return ", so that it does worse than the baseline, and shows no leak"
    return ", which could be chance"


def _on_defenses(finding: DefenseEffect) -> str:
    labels = ", ".join(finding.defenses)
    match finding.effect:
        case "stopped":
            return f"Stopped by {labels}; {_cost(finding)}."
        case "no leak":
            return (
                f"No leak under {labels}; but none was shown without a defense either, so that no "
                f"defense can be said to stop one."
            )
        case "not stopped":
            return f"Not stopped by {labels}."
        case "undecided":
            return (
                f"Undecided under {labels}: a leak is neither shown nor excluded; the table of "
                f"defenses gives the reason."
            )


def _cost(finding: DefenseEffect) -> str:
    costs = {label: f"{percent(cost)} points of accuracy" for label, cost in finding.costs.items()}
    if not costs:
        return "the utility cost was not measured"
    if len(finding.defenses) == 1:
        return f"the utility cost is {next(iter(costs.values()))}"
    if finding.cheapest is not None:
        return (
            f"{finding.cheapest} has the least utility cost in one training each, "
            f"{costs[finding.cheapest]} (chosen afterwards: slightly biased downwards)"
        )
    listed = "; ".join(f"{label} {costs.get(label, 'not measured')}" for label in finding.defenses)
    return f"their utility costs are not told apart: {listed}"


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict as a cell of a table.

    >>> verdict_text(Verdict(outcome="no leak", reason="advantage excluded", bound=0.05))
    'no leak: an advantage of more than 5 points over the best baseline is excluded'
    """
    if verdict.outcome == "not applied":
        return "not applied"
    text = f"{verdict.outcome}: {reason_text(verdict)}"
    if verdict.not_run:
        text += f"; {' and '.join(verdict.not_run)} could not be run"
    return text


def reason_text(verdict: Verdict) -> str:
    """Return why a verdict is what it is, as part of a sentence."""
    properties = ", ".join(verdict.properties) or "every property"
    texts: dict[Reason, str] = {
        "certified features": f"{verdict.certified} exact features certified",
        "exact features": (
            f"{percent(verdict.exact)} % of the deep features are found exactly, though not "
            f"certified"
        ),
        "advantage": f"{percent(verdict.advantage, sign=True)} points above the best baseline",
        "advantage excluded": (
            f"an advantage of more than {_points(verdict.bound)} over the best baseline is excluded"
            if verdict.bound
            else "any advantage over the best baseline is excluded"
        ),
        "attack not run": "no advantage shown, but not every attack was run",
        "no baseline": f"no baseline with the attacks' knowledge was measured in {properties}",
        "constant property": f"{properties} is the same for everybody",
        "no interval": f"fewer than {MIN_GROUPS} batches, or people, give no interval",
        "accurate baseline": (
            f"the best baseline is right in {100 * (verdict.baseline or 0.0):.1f} % of "
            f"{properties}, so that no advantage of more than {_points(RELEVANT_ADVANTAGE)} is "
            f"possible"
        ),
        "wide interval": (
            f"no advantage shown, but up to {_points(verdict.bound)} are not excluded"
        ),
        "defense refused": "the defense cannot be applied",
        "updates differ": (
            "captured updates are not what the model computes, so that the attacks assumed "
            "something wrong"
        ),
        "truth unknown": (
            "no feature is certified, and without the truth it cannot be said how often the "
            "attacks are right"
        ),
    }
    return texts[verdict.reason]


def _points(share: float | None) -> str:
    # Rounded up: a bound that is rounded down would exclude more than is excluded.
    return f"{math.ceil(round(100 * (share or 0.0), 6))} points"
