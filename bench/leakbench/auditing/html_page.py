"""The report as an HTML page: one file without external resources, with all text escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from leakbench.auditing.impact_assessment import impact_assessment
from leakbench.auditing.more_batches import undecided_text
from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.report_parts import attacks_run
from leakbench.auditing.sentences import percent, verdict_text
from leakbench.auditing.verdicts import RELEVANT_ADVANTAGE
from leakbench.auditing.worst_case import worst_case_text
from leakbench.metrics.estimates import MIN_GROUPS
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import FALSE_POSITIVE_RATE, FEATURE_COSINE, SWAPPED_COSINE
from leakbench.records.record import Metrics

LISTED = 20
"""Exposed individuals that are shown at once; the others are folded."""


def html_page(report: ReportContents) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("leakbench.auditing", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cosines": _cosines,
        "percent": percent,
        "undecided_text": undecided_text,
        "verdict_text": verdict_text,
        "worst_case_text": worst_case_text,
    }
    return environment.get_template("audit.html").render(
        report=report,
        assessment=impact_assessment(report),
        properties=list(report.auxiliary.properties),
        titles={attack.name: attack.title for attack in report.attacks},
        attackers=attacks_run(report.attacks),
        listed=LISTED,
        min_groups=MIN_GROUPS,
        worst_case_percent=f"{100 * FALSE_POSITIVE_RATE:g}",
        relevant_points=round(100 * RELEVANT_ADVANTAGE),
    )


def _cosines(metrics: Metrics) -> str:
    """Return the feature cosine of an attack's answers, and that of those for other batches."""
    if metrics.feature_cosine is None:
        return MISSING
    return f"{FEATURE_COSINE.text(metrics)}; swapped {SWAPPED_COSINE.text(metrics)}"
