"""The notebook's code of the documentation runs, here on records made by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from publishing import done, write_run
from records import suite_entries

PAGE = Path(__file__).resolve().parent.parent / "bench/docs/pages/figures-and-notebooks.md"


def test_the_code_of_the_documentation_makes_a_table_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (suite,) = re.findall(r"^```toml[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "small.toml").write_text(suite, encoding="utf-8")
    write_run(tmp_path / "runs", map(done, suite_entries(str(tmp_path / "small.toml"))))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})
    # Mask demixing's 0.9 for gender and 0.89 for glasses, at both batch sizes.
    printed = capsys.readouterr().out
    assert re.search(r"mask_demixing +0\.9\d? +0\.9\d?", printed)
    assert (tmp_path / "accuracy.png").is_file()
