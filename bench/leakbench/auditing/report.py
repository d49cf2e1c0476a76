"""The report of an audit, and the files that it is written to."""

from __future__ import annotations

import json
from pathlib import Path

from leakbench.auditing.conditions import Condition
from leakbench.auditing.html_page import html_page
from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.sarif import sarif_log
from leakbench.base.files import replacing


class Report(ReportContents):
    """What an audit found; see `ReportContents`."""

    def holds(self, condition: str) -> bool:
        """Return whether a condition is shown to hold: the one of `leakbench audit --fail-on`.

        Args:
            condition: `certified`, `advantage>0.1` or `undecided`, see
                `leakbench.auditing.conditions.Condition`.

        Raises:
            UsageError: it is none of these.
        """
        return Condition.parse(condition).judge(self).outcome == "holds"

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write `audit.html` and `audit.json` into a folder; return their paths.

        Raises:
            UsageError: the folder cannot be written to.
        """
        page, data = Path(folder) / "audit.html", Path(folder) / "audit.json"
        for path, text in ((page, html_page(self)), (data, self.model_dump_json(indent=1))):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return page, data

    def write_sarif(self, path: Path | str, model_file: str | None = None) -> None:
        """Write the leaks as SARIF 2.1.0, see `leakbench.auditing.sarif.sarif_log`.

        Args:
            model_file: the source of the model, where results are shown.

        Raises:
            UsageError: the file cannot be written.
        """
        text = json.dumps(sarif_log(self, model_file), indent=1, ensure_ascii=False)
        with replacing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
