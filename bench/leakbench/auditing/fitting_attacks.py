"""The usual attacks that are for the end of a model."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.attacks.linear_layers.certifying_attack import CertifyingAttack
from leakbench.attacks.linear_layers.demixing_attack import DemixingAttack
from leakbench.attacks.linear_layers.head import head_of
from leakbench.auditing.case import Case
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import ATTACKS


def fitting_attacks(usual: Sequence[PluginSpec], case: Case) -> tuple[list[PluginSpec], list[str]]:
    """Return the attacks without those that demix another kind of head, and why, in sentences.

    Exact attacks are alternatives: each is for one kind of end. One that is for another does not
    leave the verdict open, unless none is for that of this model: then all are kept, and refused.
    """
    reasons = {spec.name: reason for spec in usual if (reason := _misfit(spec, case))}
    fits = [spec for spec in usual if spec.name not in reasons]
    if not any(issubclass(ATTACKS.get(spec.name), CertifyingAttack) for spec in fits):
        return list(usual), []
    titles = {name: ATTACKS.get(name).title for name in reasons}
    return fits, [
        f"{titles[name]} is for other models and was left out: {reason}."
        for name, reason in reasons.items()
    ]


def _misfit(spec: PluginSpec, case: Case) -> str:
    """Return why an attack is not for the model's head; empty if it is, or demixes none."""
    attack = spec.build(ATTACKS)
    if not isinstance(attack, DemixingAttack):
        return ""
    try:
        attack.check_head(head_of(case.model, attack.name))
    except UsageError as error:
        return str(error)
    return ""
