"""Conditions on a report on which a check fails, such as `certified` and `advantage>0.1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.report_parts import attacks_run, is_shown
from leakbench.auditing.sentences import percent
from leakbench.base.errors import UsageError

_ADVANTAGE = re.compile(r"advantage\s*>\s*(\d*\.?\d+)")

Subject = Literal["leaks", "certified", "advantage", "undecided"]

Outcome = Literal["holds", "does not hold", "undecided"]
"""Of a condition; `undecided` where it is neither shown nor excluded."""


@dataclass(frozen=True)
class Judged:
    """Whether a condition holds, and why.

    Attributes:
        reason: part of a sentence.
    """

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Condition:
    """A condition on a report.

    Attributes:
        subject: `leaks` or `undecided`: the report's verdict is; `certified`: some attack certifies
            an exact feature that the truth does not show false; `advantage`: an advantage over the
            best baseline is above the threshold, its whole interval.
        threshold: a share in [0, 1).
    """

    subject: Subject
    threshold: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the condition that a text states.

        Raises:
            UsageError: it states none.

        >>> Condition.parse("advantage > 0.1")
        Condition(subject='advantage', threshold=0.1)
        """
        text = text.strip()
        if text == "certified":
            return cls("certified")
        if text == "leaks":
            return cls("leaks")
        if text == "undecided":
            return cls("undecided")
        found = _ADVANTAGE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"condition {text!r} is not understood; give leaks, certified, undecided, or "
                f"advantage>0.1 with a share between 0 and 1"
            )
        threshold = float(found.group(1))
        if not threshold < 1:
            raise UsageError(
                f"condition {text!r}: {found.group(1)} is no share below 1; an advantage of 10 "
                f"points is 0.1"
            )
        return cls("advantage", threshold)

    @property
    def needs_truth(self) -> bool:
        """Whether it can hold only where the truth is known of some update."""
        return self.subject == "advantage"

    def judge(self, report: ReportContents) -> Judged:
        """Return whether it holds for the updates as they were sent, without further defenses."""
        if self.subject == "certified":
            return _on_certificates(report)
        if self.subject == "advantage":
            return _on_advantage(report, self.threshold)
        outcome, reason = report.verdict.outcome, f"the verdict is {report.verdict.outcome}"
        if self.subject == outcome:
            return Judged("holds", reason)
        return Judged("undecided" if outcome == "undecided" else "does not hold", reason)


def _on_certificates(report: ReportContents) -> Judged:
    certified = sum(bool(each.certified_by) for each in report.exposed)
    if certified:
        return Judged("holds", f"exact features of {certified} individuals are certified")
    if report.verdict.reason == "updates differ":
        return Judged("undecided", "captured updates are not what the model computes")
    if report.verdict.not_run:
        return Judged("undecided", f"{' and '.join(report.verdict.not_run)} could not be run")
    return Judged("does not hold", "no exact feature is certified")


def _on_advantage(report: ReportContents, threshold: float) -> Judged:
    advantages = [
        (name, attack.title, advantage)
        for attack in attacks_run(report.attacks)
        for name, advantage in attack.advantage.items()
    ]
    for name, title, advantage in advantages:
        if is_shown(advantage, threshold):
            text = f"{title}'s advantage in {name} is {percent(advantage, sign=True)} points"
            return Judged("holds", text)
    if report.verdict.reason == "updates differ":
        return Judged("undecided", "captured updates are not what the model computes")
    if report.verdict.not_run:
        return Judged("undecided", f"{' and '.join(report.verdict.not_run)} could not be run")
    if not advantages:
        return Judged("undecided", "no advantage was measured")
    for name, title, advantage in advantages:
        if advantage.high is None or advantage.high > threshold:
            text = f"{title}'s advantage in {name} is {percent(advantage, sign=True)} points"
            return Judged("undecided", text)
    return Judged("does not hold", f"every advantage is at most {100 * threshold:g} points")
