"""The results of an attack as a part of the report."""

from __future__ import annotations

from leakbench.auditing.attacking import Attacked
from leakbench.auditing.report_parts import AttackReport
from leakbench.base.plugins import PluginSpec


def attack_report(attacked: Attacked) -> AttackReport:
    """Return the results of an attack or control as data."""
    attack = attacked.attack
    spec = PluginSpec.of(attack)
    return AttackReport(
        name=spec.name,
        title=attack.title,
        reference=attack.reference,
        note=attack.note,
        control=attack.control is not None,
        knows=attacked.knowledge.names(),
        parameters=dict(spec.parameters),
        refused=attacked.refused,
        seconds=attacked.seconds,
        certified=attacked.certified,
        false_certificates=attacked.false_certificates,
        metrics=attacked.metrics,
        advantage=dict(attacked.advantage),
        baselines=dict(attacked.baselines),
    )
