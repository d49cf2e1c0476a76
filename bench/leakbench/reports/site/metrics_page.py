"""The catalogue of metrics as a table."""

from __future__ import annotations

from leakbench.metrics.catalogue import METRICS
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.spec import MetricSpec
from leakbench.reports.site.view import TableView, plain_table
from leakbench.reports.summaries import Summary

HEADINGS = ("metric", "what it is", "of each", "range", "better attack", "interval by", "column")


def metrics_table() -> TableView:
    """Return a row for each metric, with its column in the data frame of results."""
    rows = [
        [
            spec.heading,
            spec.description,
            "property" if spec.is_per_property else "cell",
            _range(spec),
            spec.better or MISSING,
            spec.interval or MISSING,
            spec.name if spec.exported else MISSING,
        ]
        for spec in METRICS
    ]
    return plain_table("metrics", "Metrics of records", Summary(HEADINGS, rows))


def _range(spec: MetricSpec) -> str:
    least, most = (100 * end if spec.unit == "%" else end for end in spec.range)
    return f"{least:g} to {most:g}".replace("inf", "∞")
