"""The report as an HTML page: one file without external resources, with all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leakbench.auditing import report_charts as charts
from leakbench.auditing.impact_assessment import impact_assessment
from leakbench.auditing.label_texts import shown_label
from leakbench.auditing.more_batches import undecided_text
from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.report_parts import attacks_run, defense_label
from leakbench.auditing.sentences import percent, verdict_text
from leakbench.auditing.verdicts import RELEVANT_ADVANTAGE
from leakbench.metrics.estimates import MIN_GROUPS
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import FALSE_POSITIVE_RATE, FEATURE_COSINE, SWAPPED_COSINE
from leakbench.records.record import Metrics

SHAPES = {
    "o": "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0Z",
    "s": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "^": "M0 -5.5L5.5 4.5H-5.5Z",
    "v": "M0 5.5L5.5 -4.5H-5.5Z",
    "<": "M-5.5 0L4.5 -5.5V5.5Z",
    ">": "M5.5 0L-4.5 -5.5V5.5Z",
    "D": "M0 -6L6 0L0 6L-6 0Z",
    "P": "M-2 -5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
    "X": "M0 -2.6L2.9 -5.5L5.5 -2.9L2.6 0L5.5 2.9L2.9 5.5L0 2.6L-2.9 5.5L-5.5 2.9L-2.6 0L-5.5 -2.9"
    "L-2.9 -5.5Z",
}
"""The figures' markers as SVG paths around 0."""

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
        "defense_text": _defense_text,
        "in_percent": in_percent,
        "label_text": partial(shown_label, texts=report.model.labels),
        "percent": percent,
        "undecided_text": undecided_text,
        "utc": _utc,
        "verdict_text": verdict_text,
    }
    return environment.get_template("audit.html").render(
        report=report,
        assessment=impact_assessment(report),
        properties=list(report.auxiliary.properties),
        titles={attack.name: attack.title for attack in report.attacks},
        attackers=attacks_run(report.attacks),
        listed=LISTED,
        shapes=SHAPES,
        chart_width=charts.WIDTH,
        size={
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "bottom": charts.BOTTOM,
            "top": charts.TOP,
            "edge": charts.EDGE,
        },
        attack_charts=charts.attack_charts(report.attacks),
        leakage_charts=charts.leakage_charts(report.defenses),
        utility_charts=charts.utility_charts(report.defenses, report.findings_as_data),
        numbered_defenses=charts.numbered_defenses(report.defenses, report.findings_as_data),
        looks_used=charts.looks_used(report.defenses),
        min_groups=MIN_GROUPS,
        worst_case_percent=f"{100 * FALSE_POSITIVE_RATE:g}",
        relevant_points=round(100 * RELEVANT_ADVANTAGE),
    )


def _cosines(metrics: Metrics) -> list[str]:
    """Return the feature cosine of an attack's answers, and that of those for other batches."""
    if metrics.feature_cosine is None:
        return [MISSING]
    return [str(FEATURE_COSINE.text(metrics)), f"swapped {SWAPPED_COSINE.text(metrics)}"]


def in_percent(probability: float) -> str:
    """Return a probability in percent, which is below 50 where the probability is below ½.

    >>> in_percent(0.73), in_percent(0.503), in_percent(0.4999)
    ('73', '50.3', '49.9')
    """
    text = f"{100 * probability:.0f}"
    if text != "50":
        return text
    return "49.9" if 0.4995 <= probability < 0.5 else f"{100 * probability:.1f}"


def _defense_text(table: Mapping[str, Any]) -> str:
    """Return a defense with its parameters."""
    return defense_label(table["name"], {k: v for k, v in table.items() if k != "name"})


def _utc(time: str) -> str:
    """Return a time in UTC, in ISO's format, as people write it."""
    return f"{time[:16].replace('T', ' ')} UTC"
