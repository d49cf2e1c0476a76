"""All that an audit's report holds, as data."""

from __future__ import annotations

from typing import Any

from leakbench.auditing.findings import Finding
from leakbench.auditing.report_parts import (
    AttackReport,
    AuditedUpdate,
    AuxiliaryReport,
    DefenseReport,
    ModelReport,
    ReportPart,
)


class ReportContents(ReportPart):
    """What an audit found.

    Attributes:
        leakbench: the version that made it.
        finished: when, in UTC.
        threat: what the server knows and how clients compute; see `ThreatModel`.
        findings: in sentences.
        findings_as_data: the same as values, in the same order.
        limitations: what limits the findings, in sentences.
        attacks: with the controls.
        defenses: on the batches whose truth is known; the first is none.
        interrupted: whether Ctrl-C ended the audit before all parts were run.
    """

    leakbench: str
    finished: str
    model: ModelReport
    threat: dict[str, Any]
    auxiliary: AuxiliaryReport
    findings: list[str]
    findings_as_data: list[Finding]
    limitations: list[str]
    attacks: list[AttackReport]
    updates: list[AuditedUpdate]
    defenses: list[DefenseReport]
    interrupted: bool = False

    @property
    def summary(self) -> str:
        """The findings and what limits them, as text: never the ones without the others."""
        parts = (("Findings", self.findings), ("Limitations", self.limitations))
        return "\n".join(
            line for title, texts in parts for line in (f"{title}:", *(f"- {t}" for t in texts))
        )
