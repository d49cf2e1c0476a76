"""Facts about submissions: the form, its check, and how their attacks are listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leakbench.base.errors import UsageError
from leakbench.records.submission import NAME, read_submission, schema_text
from publishing import HOSTILE, done, write_run
from records import suite_entries

Run = Callable[..., tuple[int, str, str]]

SCHEMA = Path(__file__).resolve().parent.parent / "bench/docs/pages/submission.schema.json"

FORM: dict[str, Any] = {
    "schema_version": 1,
    "name": "Team",
    "paper": "https://arxiv.org/abs/1906.08935",
    "code": "https://code.example/attack",
    "contact": "a@example.org",
    "licence": "MIT",
}


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps({**FORM, **changes}), encoding="utf-8")
    return folder


def test_the_documentation_has_the_schema_of_the_form() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), (
        "write leakbench.records.submission.schema_text() to bench/docs/pages"
    )


def test_the_form_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = SCHEMA.with_name("submitting.md").read_text(encoding="utf-8")
    (form,) = re.findall(r"^```json[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / NAME).write_text(form, encoding="utf-8")
    assert read_submission(tmp_path).name == "Your team"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"paper": "javascript:alert(1)"}, "paper: "),
        ({"code": "http://code.example"}, "code: "),
        ({"code": 'https://a.example/"onclick='}, "code: "),
        ({"name": "a\nb"}, "name: "),
        ({"name": ""}, "name: "),
        ({"schema_version": 2}, "schema_version: "),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_form_that_is_not_as_the_schema_wants_it_is_one_sentence(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"submission\.json") as error:
        read_submission(written(tmp_path, **changes))
    assert why in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_form_is_no_submission(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is missing; a submission names its paper and code"):
        read_submission(tmp_path)


def test_verify_names_a_wrong_form_as_a_fault(tmp_path: Path, run: Run) -> None:
    out = write_run(written(tmp_path / "theirs", paper="x"), map(done, suite_entries("quick")[:1]))
    code, printed, _ = run("verify", str(out), "--sample", "0")
    assert code == 1
    assert "submission.json: paper: " in printed


def test_a_submission_is_ranked_as_claimed_and_listed(tmp_path: Path, run: Run) -> None:
    cells = suite_entries("quick")
    ours = [each for each in cells if each.cell.attack != "mask_demixing"]
    theirs = [each for each in cells if each.cell.attack == "mask_demixing"]
    out = write_run(tmp_path / "out", map(done, ours))
    name = HOSTILE[:60]
    folder = write_run(written(tmp_path / "theirs", name=name, note=HOSTILE), map(done, theirs))
    code, _, said = run("publish", "--out", str(out), "--submission", str(folder))
    assert code == 0, said
    text = (out / "leaderboard.md").read_text()
    assert "| Mask demixing (claimed by " in text
    section = text[text.index("## Submissions") :]
    assert "none measured again yet" in section and "https://code.example/attack" in section
    assert "<" not in text and "](javascript" not in text
    page = (out / "site" / "index.html").read_text()
    assert "Mask demixing (claimed by " in page
    assert '<a href="https://code.example/attack" rel="noreferrer nofollow">code</a>' in page
    assert '<script src="https' not in page and "<img" not in page
    # The records stay where they are.
    assert len(list((out / "records").glob("*.json"))) == len({each.key for each in ours})
    code, _, said = run("publish", "--out", str(out), "--submission", str(tmp_path / "no"))
    assert code == 2 and "submission.json is missing" in said
