"""Every attack answers under every defense, whether it knows that or not."""

from __future__ import annotations

from leakbench.base.errors import UsageError
from leakbench.base.plugins import parameters_of
from leakbench.base.registry import ATTACKS, DEFENSES
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.check import Check, FindingError, NotCheckedError
from leakbench.conformance.defenses import DefenseTrial
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.threat.knowledge import Knowledge


def under(attack: AttackTrial, defense: DefenseTrial, adaptive: bool) -> None:
    """Run an attack on two defended updates.

    Args:
        adaptive: whether it is granted the defense.

    Raises:
        FindingError: it fails, or returns another number of rows than the update has individuals.
        NotCheckedError: it is not defined for so many individuals.
    """
    context = attack.context
    needs = attack.attack.required_knowledge
    granted = needs | Knowledge.DEFENSE if adaptive else needs
    cell = Cell.model_validate(
        context.setup.model_dump()
        | {
            "attack": attack.name,
            "attack_parameters": parameters_of(attack.attack),
            "batch_size": min(2, attack.batch_size),
            "grant": granted.names(),
            "defense": defense.name,
            "defense_parameters": parameters_of(defense.defense),
        }
    )
    resolved = ResolvedCell(cell, attack.attack, defense.defense)
    together = resolved.individuals_in_update
    if together > (attack.plugin.largest_batch or together):
        raise NotCheckedError(f"{attack.name} is defined up to B = {attack.plugin.largest_batch}")
    truths = victim_batches(context, together, 2 * together)
    try:
        # The harness refuses other rows than there are individuals.
        infer(attack.attack, truths, Exchange.of(resolved), context, lambda _: None, "off")
    except UsageError as error:
        knowing = "knowing it" if adaptive else "not knowing of it"
        raise FindingError(f"under defense {defense.name!r}, {knowing}: {error}") from None


def checks_under_defenses(trial: AttackTrial) -> tuple[Check, ...]:
    """Return a check for each of our defenses; a second where the attack adapts to it."""
    return tuple(
        _check(trial, DefenseTrial(defense, device=trial.device), adaptive, f"under {defense}")
        for defense in DEFENSES.own()
        for adaptive in _grants(trial)
    )


def checks_of_attackers(trial: DefenseTrial) -> tuple[Check, ...]:
    """Return a check for each of our attacks; a second for those that adapt to defenses."""
    attackers = (AttackTrial(attack, device=trial.device) for attack in ATTACKS.own())
    return tuple(
        _check(attacker, trial, adaptive, f"attacked by {attacker.name}")
        for attacker in attackers
        for adaptive in _grants(attacker)
    )


def _grants(attack: AttackTrial) -> tuple[bool, ...]:
    optional_knowledge = attack.plugin.optional_knowledge
    knows = isinstance(optional_knowledge, Knowledge) and Knowledge.DEFENSE in optional_knowledge
    return (False, True) if knows else (False,)


def _check(attack: AttackTrial, defense: DefenseTrial, adaptive: bool, name: str) -> Check:
    return Check(
        f"{name}, {'adaptive' if adaptive else 'static'}",
        lambda _: under(attack, defense, adaptive),
    )
