"""All that an audit's report holds, as data."""

from __future__ import annotations

from typing import Any

from leakbench.auditing.exposure import ExposedIndividual
from leakbench.auditing.findings import Finding
from leakbench.auditing.hardest import HardestIndividuals, hardest_text
from leakbench.auditing.more_batches import UndecidedProperty, undecided_text
from leakbench.auditing.report_parts import (
    AttackReport,
    AuditedUpdate,
    AuxiliaryReport,
    DefenseReport,
    ModelReport,
    ReportPart,
    Verdict,
)
from leakbench.auditing.worst_case import WorstCase, worst_case_text


class ReportContents(ReportPart):
    """What an audit found.

    Attributes:
        leakbench: the version that made it.
        finished: when, in UTC.
        threat: what the server knows and how clients compute; see `ThreatModel`.
        verdict: whether the attacks learn something from the updates as they were sent.
        verdict_sentence: the same in one sentence, with what defenses change.
        exposed: individuals of whom something is read, most exposed first; see
            `leakbench.auditing.exposure.exposed_individuals`.
        worst_cases: the true positive rate at 1 % false positives in each property.
        hardest: individuals on whom the model errs most, if they were asked for.
        undecided: properties that are undecided, and how many more batches would decide them.
        not_tested: in sentences.
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
    verdict: Verdict
    verdict_sentence: str
    exposed: list[ExposedIndividual]
    worst_cases: list[WorstCase]
    undecided: list[UndecidedProperty]
    not_tested: list[str]
    findings: list[str]
    findings_as_data: list[Finding]
    limitations: list[str]
    attacks: list[AttackReport]
    updates: list[AuditedUpdate]
    defenses: list[DefenseReport]
    interrupted: bool = False
    hardest: HardestIndividuals | None = None

    @property
    def individuals(self) -> int:
        """The individuals in all updates."""
        return sum(update.size for update in self.updates)

    @property
    def worst_case_sentences(self) -> list[str]:
        """The worst cases; first who is exposed among the hardest individuals."""
        hardest = [] if self.hardest is None else [hardest_text(self.hardest)]
        return hardest + [worst_case_text(each) for each in self.worst_cases]

    @property
    def summary(self) -> str:
        """The verdict, the findings and what limits them, as text; it lists no individual."""
        parts = (
            ("Verdict", [self.verdict_sentence]),
            ("Findings", self.findings),
            ("Worst case", self.worst_case_sentences),
            ("Undecided", [undecided_text(each) for each in self.undecided]),
            ("Not tested", self.not_tested),
            ("Limitations", self.limitations),
        )
        return "\n".join(
            line
            for title, texts in parts
            if texts
            for line in (f"{title}:", *(f"- {t}" for t in texts))
        )
