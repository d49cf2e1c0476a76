"""The findings of an audit, as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from leakbench.auditing.report_parts import (
    AttackReport,
    AuditedUpdate,
    DefenseReport,
    ModelReport,
    ReportPart,
    attacks_run,
    baseline_of,
    is_shown,
    shows_exact_features,
)
from leakbench.auditing.trained_parts import kind_of_training
from leakbench.metrics.estimates import Estimate
from leakbench.reports.baselines import is_above


class UpdatesDiffer(ReportPart):
    """Captured updates are not what the model computes, so that attacks assume something wrong.

    Attributes:
        differing, captured: updates, of so many that were captured.
        first: the name of one.
        mismatch: its distance from the update that its truth gives; None without the truth.
        reason: what shows it where the truth is not known; else empty.
    """

    kind: Literal["updates differ"] = "updates differ"
    differing: int
    captured: int
    first: str
    mismatch: float | None
    reason: str


class CertifiedFeatures(ReportPart):
    """An attack certifies exact deep features.

    Attributes:
        attack: its title.
        certified, individuals: features that it certifies, of so many.
        false: certificates among these that the truth shows false; None where no truth is known.
    """

    kind: Literal["certified features"] = "certified features"
    attack: str
    certified: int
    individuals: int
    false: int | None


class ExactFeatures(ReportPart):
    """An attack finds exact deep features, as the truth shows, and certifies none.

    Attributes:
        attack: its title.
        share: of the individuals whose truth is known.
    """

    kind: Literal["exact features"] = "exact features"
    attack: str
    share: Estimate


class PartlyTrained(ReportPart):
    """Clients train only a part of the model.

    Attributes:
        what: part of a sentence, such as `the head alone`.
        trained, tensors: parameters that updates hold, of so many.
    """

    kind: Literal["partly trained"] = "partly trained"
    what: str
    trained: int
    tensors: int


class TruthUnknown(ReportPart):
    """No accuracy can be given: the truth is not known for any update."""

    kind: Literal["truth unknown"] = "truth unknown"


class InferredProperty(ReportPart):
    """The attack with the largest advantage in a property.

    Attributes:
        subject: the property.
        attack: its title.
        accuracy, baseline: balanced accuracy of the attack and of the best baseline.
        control: the title of that baseline.
        advantage: the difference.
        compared: attacks of which this is the best.
    """

    kind: Literal["inferred property"] = "inferred property"
    subject: str
    attack: str
    accuracy: Estimate
    baseline: Estimate
    control: str
    advantage: Estimate
    compared: int

    @property
    def shown(self) -> bool:
        """Whether the advantage is more than chance."""
        return is_shown(self.advantage)


class ConstantProperty(ReportPart):
    """A property that all individuals have, or none."""

    kind: Literal["constant property"] = "constant property"
    subject: str


class NoBaseline(ReportPart):
    """No control with the attacks' knowledge was measured in a property.

    Attributes:
        subject: the property.
        attack: the title of the attack with the highest balanced accuracy.
        accuracy: that accuracy.
    """

    kind: Literal["no baseline"] = "no baseline"
    subject: str
    attack: str
    accuracy: Estimate


Effect = Literal["stopped", "no leak", "not stopped", "undecided"]
"""What a defense does to the attacks; see `DefenseEffect`."""


class DefenseEffect(ReportPart):
    """The defenses that have an effect.

    Attributes:
        effect: `stopped`: the attacks leak without a defense, and not under these; `no leak`: not
            under these, but not shown without one either; `not stopped`: they leak; `undecided`.
        defenses: labels, see `DefenseReport.label`.
        cheapest: of those that stop the attacks, the one whose utility cost is below that of every
            other, intervals apart; None where there is none.
        cost: that cost.
        costs: the utility costs of those that stop the attacks, by label; those that were not
            measured are missing.
        simulated_otherwise: see `DefenseReport`.
    """

    kind: Literal["defense effect"] = "defense effect"
    effect: Effect
    defenses: list[str]
    cheapest: str | None = None
    cost: Estimate | None = None
    costs: dict[str, Estimate] = Field(default_factory=dict)
    simulated_otherwise: bool = False


Finding = Annotated[
    UpdatesDiffer
    | PartlyTrained
    | CertifiedFeatures
    | ExactFeatures
    | TruthUnknown
    | InferredProperty
    | ConstantProperty
    | NoBaseline
    | DefenseEffect,
    Field(discriminator="kind"),
]


def findings_of(
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
    model: ModelReport | None = None,
) -> list[Finding]:
    """Return what was found; first that captured updates are not what attacks assume."""
    differ: list[Finding] = [*_on_updates(updates)]
    differ += [] if model is None else _on_training(model)
    individuals = sum(update.size for update in updates)
    ran = attacks_run(attacks)
    certified: list[Finding] = [
        CertifiedFeatures(
            attack=attack.title,
            certified=attack.certified,
            individuals=individuals,
            false=attack.false_certificates,
        )
        for attack in ran
        if attack.certified
    ]
    if not any(update.truth_known for update in updates):
        return [*differ, *certified, TruthUnknown()]
    properties = [_on_property(name, ran, attacks) for name in _properties(attacks)]
    exact = [
        ExactFeatures(attack=attack.title, share=attack.metrics.exact)
        for attack in ran
        if not attack.certified
        and attack.metrics is not None
        and attack.metrics.exact is not None
        and shows_exact_features(attack, attacks)
    ]
    return [*differ, *certified, *exact, *properties, *_on_defenses(defenses)]


def _on_updates(updates: Sequence[AuditedUpdate]) -> list[UpdatesDiffer]:
    differing = [update for update in updates if update.check == "differs"]
    if not differing:
        return []
    return [
        UpdatesDiffer(
            differing=len(differing),
            captured=sum(update.captured for update in updates),
            first=differing[0].name,
            mismatch=differing[0].mismatch,
            reason=differing[0].check_reason,
        )
    ]


def _on_training(model: ModelReport) -> list[PartlyTrained]:
    """Return what clients train, where it is not the whole model."""
    trained = [*model.extractor, *model.head]
    if model.tensors is None or len(trained) == model.tensors:
        return []
    what = kind_of_training(trained, model.head)
    return [PartlyTrained(what=what, trained=len(trained), tensors=model.tensors)]


def _properties(attacks: Sequence[AttackReport]) -> list[str]:
    return next((list(a.metrics.properties) for a in attacks if a.metrics is not None), [])


def _on_property(
    name: str, ran: Sequence[AttackReport], attacks: Sequence[AttackReport]
) -> InferredProperty | NoBaseline | ConstantProperty:
    """Return the attack with the largest advantage in a property."""
    defined = [a for a in ran if a.advantage.get(name) and a.advantage[name].value is not None]
    if not defined:
        return _without_advantage(name, ran)
    best = max(defined, key=lambda a: a.advantage[name].value or 0.0)
    baseline = baseline_of(best, name, attacks)
    assert best.metrics is not None and baseline is not None and baseline.metrics is not None
    return InferredProperty(
        subject=name,
        attack=best.title,
        accuracy=best.metrics.properties[name].balanced_accuracy,
        baseline=baseline.metrics.properties[name].balanced_accuracy,
        control=baseline.title,
        advantage=best.advantage[name],
        compared=len(defined),
    )


def _without_advantage(name: str, ran: Sequence[AttackReport]) -> NoBaseline | ConstantProperty:
    accuracies = [
        (accuracy.value, accuracy, attack.title)
        for attack in ran
        if attack.metrics is not None
        and (accuracy := attack.metrics.properties[name].balanced_accuracy).value is not None
    ]
    if not accuracies:
        return ConstantProperty(subject=name)
    _, accuracy, title = max(accuracies, key=lambda each: each[0])
    return NoBaseline(subject=name, attack=title, accuracy=accuracy)


def _on_defenses(defenses: Sequence[DefenseReport]) -> list[DefenseEffect]:
    """Return which defenses stop the attacks, and at what cost."""
    tried = [d for d in defenses if not d.refused and d.name != "none"]
    leaked = any(d.name == "none" and d.verdict.outcome == "leaks" for d in defenses)
    no_leak, leaking, undecided = (
        [d for d in tried if d.verdict.outcome == outcome]
        for outcome in ("no leak", "leaks", "undecided")
    )
    effects = []
    if no_leak:
        effects.append(_stopped(no_leak) if leaked else _effect("no leak", no_leak))
    if leaking:
        effects.append(_effect("not stopped", leaking))
    if undecided:
        effects.append(_effect("undecided", undecided))
    return effects


def _effect(effect: Effect, defenses: Sequence[DefenseReport]) -> DefenseEffect:
    return DefenseEffect(
        effect=effect,
        defenses=[d.label for d in defenses],
        simulated_otherwise=any(d.simulated_otherwise for d in defenses),
    )


def _stopped(defenses: Sequence[DefenseReport]) -> DefenseEffect:
    costs = {
        d.label: d.utility_cost
        for d in defenses
        if d.utility_cost is not None and d.utility_cost.value is not None
    }
    effect = _effect("stopped", defenses).model_copy(update={"costs": costs})
    if len(costs) < len(defenses):
        return effect
    for label, cost in costs.items():
        if all(is_above(other, cost) for name, other in costs.items() if name != label):
            return effect.model_copy(update={"cheapest": label, "cost": cost})
    return effect
