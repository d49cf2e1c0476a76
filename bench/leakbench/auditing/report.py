"""The report of an audit, and the files that it is written to."""

from __future__ import annotations

from pathlib import Path

from leakbench.auditing.html_page import html_page
from leakbench.auditing.report_contents import ReportContents
from leakbench.base.files import replacing


class Report(ReportContents):
    """What an audit found; see `ReportContents`."""

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
