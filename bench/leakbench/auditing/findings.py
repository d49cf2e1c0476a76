"""What an audit found, and what limits it, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from leakbench.auditing.attacking import FEWEST, enough_for_intervals
from leakbench.auditing.case import Case
from leakbench.metrics.estimates import Estimate

if TYPE_CHECKING:
    from leakbench.auditing.report import AttackReport, AuditedUpdate, DefenseReport

MISMATCH = 0.01
"""Relative distance from which an update is not that of its truth, but for rounding."""

STOPPED = 0.1
"""Balanced accuracy above the blind control's that must be excluded to say that nothing leaks."""

FEW = 20
"""Batches below which intervals are so wide that little can be shown not to leak."""


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


def verdict(attacks: Sequence[AttackReport]) -> str:
    """Return in a few words whether the attacks still learn something."""
    said = _verdict(attacks)
    refused = [a.title for a in attacks if a.refused and not a.control]
    return f"{said}; {' and '.join(refused)} could not be run" if refused else said


def _verdict(attacks: Sequence[AttackReport]) -> str:
    ran = [a for a in attacks if not a.control and not a.refused]
    certified = sum(_certified(a) for a in ran)
    if certified:
        return f"leaks: {certified} exact features certified"
    leads = [lead for a in ran for lead in a.lead.values()]
    shown = [lead for lead in leads if lead.low is not None and lead.low > 0]
    if shown:
        best = max(shown, key=lambda lead: lead.low or 0.0)
        return f"leaks: {percent(best, sign=True)} points above blind"
    if why := _open(attacks):
        return f"undecided: {why}"
    most = max(0.0, *(lead.high for lead in leads if lead.high is not None))
    if most > STOPPED:
        return f"undecided: no lead shown, but up to {100 * most:.0f} points are not excluded"
    return f"no leak: at most {100 * most:.0f} points above blind"


def _certified(attack: AttackReport) -> int:
    """Return the features that an attack certifies, without those that the truth shows false."""
    certificates = attack.metrics.certificates if attack.metrics else None
    false = certificates.false if certificates else 0
    return max(0, (attack.certified or 0) - false)


def _open(attacks: Sequence[AttackReport]) -> str:
    """Return why no leak could be excluded, however small the leads; empty if one could."""
    if any(a.refused and not a.control for a in attacks):
        return "no lead shown, but not every attack was run"
    leads = [(name, lead) for a in attacks if not a.control for name, lead in a.lead.items()]
    same = sorted({name for name, lead in leads if lead.value is None})
    if same or not leads:
        return f"{', '.join(same) or 'every property'} is the same for everybody"
    if any(lead.low is None for _, lead in leads):
        return f"fewer than {FEWEST} batches, or people, give no interval"
    blind = next(a for a in attacks if a.name == "blind")
    assert blind.metrics is not None
    for name, _ in leads:
        own = blind.metrics.properties[name].balanced_accuracy.value
        if own is not None and 1 - own <= STOPPED:
            return (
                f"blind is right in {100 * own:.1f} % of {name}, so that no lead of more than "
                f"{100 * STOPPED:.0f} points is possible"
            )
    return ""


def findings(
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
) -> list[str]:
    """Return what was found."""
    individuals = sum(update.size for update in updates)
    ran = [a for a in attacks if not a.control and not a.refused]
    said = [
        f"{attack.title} certifies the exact deep feature of {attack.certified} of "
        f"{individuals} individuals{_false(attack)}."
        for attack in ran
        if attack.certified
    ]
    if not any(update.truth_known for update in updates):
        said.append(
            "The truth is not known here: what follows is what a server would believe of each "
            "individual. How often it would be right cannot be said."
        )
        return said
    said += [_of_property(name, ran, attacks) for name in _properties(attacks)]
    return said + _of_defenses(defenses)


def _false(attack: AttackReport) -> str:
    certificates = attack.metrics.certificates if attack.metrics else None
    if certificates is None:
        return ""
    return f"; of those whose truth is known, {certificates.false} certificates are false"


def _properties(attacks: Sequence[AttackReport]) -> list[str]:
    return next((list(a.metrics.properties) for a in attacks if a.metrics is not None), [])


def _of_property(name: str, ran: Sequence[AttackReport], attacks: Sequence[AttackReport]) -> str:
    """Return a sentence on the attack with the highest lead in a property."""
    leading = [a for a in ran if a.lead.get(name) and a.lead[name].value is not None]
    if not leading:
        return f"{name}: everybody has it or nobody, so that no accuracy can be said."
    best = max(leading, key=lambda a: a.lead[name].value or 0.0)
    assert best.metrics is not None
    lead = best.lead[name]
    blind = next(a for a in attacks if a.name == "blind")
    assert blind.metrics is not None
    own = best.metrics.properties[name].balanced_accuracy
    control = blind.metrics.properties[name].balanced_accuracy
    shown = "" if lead.low is not None and lead.low > 0 else ", which could be chance"
    if len(leading) > 1:
        shown += f" (the best of {len(leading)} attacks, chosen afterwards, which flatters it)"
    return (
        f"{name}: {best.title} is right in {percent(own)} % (balanced), the blind control in "
        f"{percent(control)} %; its lead is {percent(lead, sign=True)} points{shown}."
    )


def _of_defenses(defenses: Sequence[DefenseReport]) -> list[str]:
    """Return sentences on the defenses: which stop the attacks, and the cheapest of them."""
    tried = [d for d in defenses if not d.refused and d.name != "none"]
    if not tried:
        return []
    leaked = any(d.name == "none" and d.verdict.startswith("leaks") for d in defenses)
    silent = [d for d in tried if d.verdict.startswith("no leak")]
    leaking = [d for d in tried if d.verdict.startswith("leaks")]
    undecided = [d for d in tried if d not in silent and d not in leaking]
    said = []
    if silent and leaked:
        said.append(f"Stopped by {_named(silent)}{_cheapest(silent)}.")
    elif silent:
        said.append(
            f"No leak under {_named(silent)}; but none was shown without a defense either, so that "
            f"nothing can be said to be stopped."
        )
    if leaking:
        said.append(f"Not stopped by {_named(leaking)}.")
    if undecided:
        said.append(
            f"Undecided under {_named(undecided)}: no leak is shown, nor is one excluded; the "
            f"table of defenses says why."
        )
    return said


def _named(defenses: Sequence[DefenseReport]) -> str:
    return ", ".join(defense_text(defense) for defense in defenses)


def _cheapest(stopping: Sequence[DefenseReport]) -> str:
    priced = [(d.lost.value, d) for d in stopping if d.lost and d.lost.value is not None]
    if not priced:
        return "; what that costs was not measured"
    _, cheapest = min(priced, key=lambda pair: pair[0])
    return (
        f"; {defense_text(cheapest)} costs the least, {percent(cheapest.lost)} points of accuracy "
        f"(chosen afterwards, which flatters it a little)"
    )


def defense_text(defense: DefenseReport) -> str:
    """Return a defense with its parameters: `gaussian (sigma = 0.01)`."""
    words = ", ".join(f"{key} = {value}" for key, value in defense.parameters.items())
    return f"{defense.name} ({words})" if words else defense.name


def limitations(
    case: Case,
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
) -> list[str]:
    """Return what limits the findings."""
    known = [update for update in updates if update.truth_known]
    said = [f"Left out: {sentence}." for sentence in case.left_out]
    far = [u.name for u in known if u.mismatch is not None and u.mismatch > MISMATCH]
    if far:
        said.append(
            f"{len(far)} captured updates (such as {far[0]!r}) are not what the model computes "
            f"from their truth: another loss or its sum instead of its mean, other scaling of "
            f"pixels, other weights, dropout, another mode or learning rate, momentum or weight "
            f"decay. Attacks assume that they are, so that what they find here says little of an "
            f"attack that is told right."
        )
    truths = [batch.truth for batch in case.known if batch.truth is not None]
    if known and not enough_for_intervals(truths):
        said.append(
            f"The truth is known of fewer than {FEWEST} batches, or people, so that no interval "
            f"is given: neither a leak by a lead nor its absence can be shown."
        )
    elif known and len(known) < FEW:
        said.append(
            f"Only {len(known)} batches have a known truth. Intervals are wide, and that no leak "
            f"is shown proves little."
        )
    if known and len(known) < len(updates):
        said.append(
            f"Accuracy is that on the {len(known)} of {len(updates)} updates whose truth is known."
        )
    if case.unplaced:
        said.append(
            f"{case.unplaced} individuals of the truth are in no update, and count nowhere."
        )
    said += [
        f"The main task's label alone gives {name} away: a class of D_aux has it always or never."
        for name in _implied(case)
    ]
    if case.model.drops:
        said.append("The model has dropout, which is off here.")
    if case.threat.mode == "eval" and _normalises(case.model):
        said.append(
            "Clients are taken to run BatchNorm by its running statistics (mode eval); if theirs "
            "normalise by the batch, say mode train."
        )
    said += [f"{a.title} was not run: {a.refused}." for a in attacks if a.refused]
    said += [f"{defense_text(d)} was not tried: {d.refused}." for d in defenses if d.refused]
    if any(d.name == "local_steps" and not d.refused for d in defenses):
        rates = ", ".join(f"{rate:g}" for rate in sorted({b.learning_rate for b in case.known}))
        said.append(f"Further local steps are tried with learning rate {rates}.")
    left = [d for d in defenses if d.left_out]
    said += [
        f"Under {defense_text(d)} {d.left_out} individuals are left out, whose batches make no "
        f"whole group of clients."
        for d in left
    ]
    said.append(
        "What attacks do not find is not safe: an attack with a larger budget, other auxiliary "
        "data, or not invented yet may find it. Probabilities are the property model's, which "
        "learnt from D_aux alone."
    )
    if known:
        said.append(
            "Intervals are 95 % each, by batch, and by person where somebody is shown more than "
            "once; of many properties, attacks and defenses some will seem to lead by chance."
        )
    return said


def _implied(case: Case) -> list[str]:
    """Return the properties that are the same for all people of D_aux of one class.

    A class of one person says nothing of others in it.
    """
    auxiliary = case.context.server.auxiliary
    assert auxiliary is not None
    classes = [auxiliary.labels == label for label in set(auxiliary.labels.tolist()) if label >= 0]
    classes = [c for c in classes if len(set(auxiliary.identities[c].tolist())) > 1]
    return [
        name
        for name, present in auxiliary.properties.items()
        if classes and all(len(set(present[of_class].tolist())) == 1 for of_class in classes)
    ]


def _normalises(model: nn.Module) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in model.modules())
