"""The report as a page: one file, nothing of it from elsewhere, and all text escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from leakbench.auditing.findings import defense_text, percent
from leakbench.auditing.report import Report


def page(report: Report) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("leakbench.auditing", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "defense_text": defense_text}
    return environment.get_template("audit.html").render(
        report=report,
        properties=list(report.auxiliary.properties),
        attackers=[a for a in report.attacks if not a.control and not a.refused],
    )
