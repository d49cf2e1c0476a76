"""Facts about `leakbench publish`: what its leaderboard says, leaves out and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.folder import read_records
from leakbench.records.store import Store
from leakbench.records.verified import Remeasured, content_hash, write
from leakbench.reports.leaderboard import laid_out, leaderboard, leading_suites
from leakbench.reports.marks import DIFFERS
from leakbench.reports.publishing import publish
from leakbench.threat.glossary import KNOWLEDGE
from leakbench.threat.knowledge import Knowledge
from publishing import HOSTILE, defended_suite, done, failed, write_run
from records import measured, suite_entries, version_of

Run = Callable[..., tuple[int, str, str]]


def published(out: Path) -> str:
    folder = read_records(out)
    return leaderboard(leading_suites(laid_out(folder, []), []), folder)


def test_the_leaderboard_has_tables_threat_models_costs_settings_and_versions(
    tmp_path: Path,
) -> None:
    text = published(write_run(tmp_path, map(done, suite_entries("quick"))))
    assert "Made by `leakbench publish` from the 38 records beside it." in text
    for heading in ("How to read", "Threat models", "Cost", "Settings"):
        assert f"\n## {heading}\n" in text
    assert "**90.0 [87.0, 93.0]**" in text  # mask demixing, clear of all others
    assert "**80.0 [77.0, 83.0]**" not in text
    told = "| Proposed | feature | attack | model, update, labels, auxiliary |"
    assert told in " ".join(text.split())
    assert "- labels: the main-task labels of the victim batch" in text
    assert "- Proposed: Yang, Wang, Li 2022" in text
    assert "leakbench 0.1.0" in text
    row = next(line for line in text.split("\n## Cost\n")[1].splitlines() if "Proposed" in line)
    assert [field.strip() for field in row.split("|")][-5:-1] == ["150", "0.8", "500", "cpu"]


def test_every_kind_of_knowledge_has_its_words() -> None:
    assert set(KNOWLEDGE) == set((~Knowledge.NOTHING).names())


def test_texts_of_records_are_no_html_link_or_image_in_the_leaderboard(tmp_path: Path) -> None:
    first, *others = suite_entries("quick")
    hostile = failed(first, f"{HOSTILE}\n\n# Heading of the record's own")
    text = published(write_run(tmp_path, [hostile, *map(done, others)]))
    assert "evil.example" in text
    assert "<" not in text
    registries = r"https://(doi\.org|arxiv\.org/abs|openreview\.net/forum)"
    assert re.sub(rf"\[(doi|arXiv|OpenReview)\]\({registries}", "", text).count("](") == 0
    assert "\n# Heading" not in text


def test_records_that_cannot_be_shown_are_named_and_the_rest_goes_on(
    tmp_path: Path, run: Run
) -> None:
    cells = suite_entries("quick")
    out = write_run(tmp_path / "out", map(done, cells))
    edited, torn, renamed, odd = (Store(out / "records").path(c.key) for c in cells[:4])
    content = json.loads(edited.read_text())
    content["cell"]["batch_size"] = 4
    edited.write_text(json.dumps(content))
    torn.write_text(torn.read_text()[:100])
    renamed.rename(renamed.with_name("0123456789abcdef01234567.json"))
    content = json.loads(odd.read_text())
    content["metrics"]["properties"]["gender"]["balanced_accuracy"]["value"] = 1.7
    odd.write_text(json.dumps(content))
    (out / "records" / "folder.json").mkdir()
    code, printed, said = run("publish", "--out", str(out))
    assert code == 0
    assert "leaderboard.md" in printed
    for path, why in (
        (edited, "its key is not that of its content"),
        (torn, "holds no record that can be read"),
        (renamed.with_name("0123456789abcdef01234567.json"), "another key"),
        (odd, "balanced_accuracy cannot be 1.7"),
        (out / "records" / "folder.json", "cannot be read"),
    ):
        (line,) = (line for line in said.splitlines() if path.name in line)
        assert line.startswith("left out") and why in line
        for page in ("leaderboard.md", "site/index.html"):
            assert path.name in (out / page).read_text()
    assert "from the 34 records" in (out / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c["metrics"]["main_task"].pop("accuracy"), "does not say accuracy"),
        (lambda c: c["metrics"]["properties"].pop("gender"), "no metrics of gender"),
        (lambda c: c.update(metrics=None), "but it has no metrics"),
        (lambda c: c["metrics"]["exact"].update(low=0.9, value=0.5), "exact cannot be 0.5"),
        (lambda c: c["metrics"]["exact"].update(high=None), "exact cannot be"),
        (lambda c: c["metrics"]["feature_cosine"].update(high=float("nan")), "cannot be"),
    ],
)
def test_a_record_with_what_cannot_be_is_left_out(
    change: Callable[[dict], object], why: str, tmp_path: Path
) -> None:
    first, second = suite_entries("quick")[:2]
    out = write_run(tmp_path, [done(first), done(second)])
    path = Store(out / "records").path(first.key)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    folder = read_records(out)
    assert list(folder.records) == [second.key]
    assert why in folder.left_out[path.name]


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_a_record_of_a_plugin_that_is_not_there_is_left_out(kind: str, tmp_path: Path) -> None:
    first, second = suite_entries("quick")[:2]
    gone = done(first)
    cell = gone.cell.model_copy(update={kind: "gone"})
    gone = gone.model_copy(update={"cell": cell, "key": cell.key(gone.attack_version)})
    folder = read_records(write_run(tmp_path, [gone, done(second)]))
    assert list(folder.records) == [second.key]
    assert f"unknown {kind} 'gone'" in folder.left_out[f"{gone.key}.json"]


def test_no_records_or_no_folder_is_one_sentence(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty" / "records").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for out, why in (
        ("empty", r"records holds no records"),
        ("file", "is no folder"),
        ("nowhere", "is no folder"),
    ):
        code, printed, said = run("publish", "--out", out)
        assert (code, printed) == (2, "")
        assert why in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "empty" / "leaderboard.md").exists()


def test_a_folder_of_broken_records_alone_is_one_sentence(tmp_path: Path, run: Run) -> None:
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "a.json").write_text("{}")
    code, _, said = run("publish", "--out", "out")
    assert code == 2
    assert "none of the 1 records" in said and "a.json" in said


def test_records_of_the_users_suite_are_laid_out_by_it(tmp_path: Path, run: Run) -> None:
    suite = defended_suite(tmp_path)
    out = write_run(tmp_path / "out", map(done, suite_entries(str(suite))))
    code, printed, said = run("publish", "--out", str(out))
    assert code == 1
    assert "leaderboard.md" in printed
    assert "it has no table" in said and "pass --suite FILE.toml" in said
    assert "--suite FILE.toml" in (out / "leaderboard.md").read_text()
    code, *_ = run("publish", "--out", str(out), "--suite", str(suite))
    assert code == 0
    assert "### By defense" in (out / "leaderboard.md").read_text()
    code, _, said = run("publish", "--out", str(out), "--suite", "defendd")
    assert code == 2
    assert "unknown suite 'defendd'" in said


def test_a_suite_of_the_users_may_have_the_name_of_one_of_ours(tmp_path: Path) -> None:
    suite = tmp_path / "table1.toml"
    suite.write_text(defended_suite(tmp_path).read_text())
    out = write_run(tmp_path / "out", map(done, suite_entries(str(suite))))
    (found,) = laid_out(read_records(out), [str(suite)])
    assert (found.name, found.title) == ("table1", "Defended")


def test_a_record_of_another_version_of_its_attack_is_shown_but_stands_in_no_table(
    tmp_path: Path,
) -> None:
    cell = suite_entries("quick", only=["attack=feature"])[0]
    old = cell.cell.key(version_of(cell) - 1)
    record = done(cell).model_copy(update={"key": old, "attack_version": version_of(cell) - 1})
    folder = read_records(write_run(tmp_path, [record]))
    assert list(folder.records) == [old]
    assert laid_out(folder, []) == []


def remeasured_run(folder: Path, signed: bool) -> list[SuiteEntry]:
    """Write three records: one agrees when measured again, one differs, one was not measured."""
    cells = list({cell.key: cell for cell in suite_entries("quick")}.values())[:3]
    store = Store(folder / "records")
    values = {}
    for cell, differences in zip(cells, ((), ("accuracy 0.9, again 0.5",), None), strict=True):
        store.write(measured(cell))
        record = store.read(cell.key)
        assert record is not None
        if differences is not None:
            entry = Remeasured(
                content=content_hash(record),
                when="2020-01-01T00:00:00+00:00",
                rule="equal",
                agrees=not differences,
                differences=differences,
                device="cpu",
                versions={},
            )
            values[cell.key] = entry.signed(cell.key) if signed else entry
    write(folder, values)
    return cells


def test_the_leaderboard_says_which_records_agree_and_differ_when_measured_again(
    tmp_path: Path,
) -> None:
    cells = remeasured_run(tmp_path, signed=True)
    written = publish(tmp_path, None, [], pixels=False)
    text = written.leaderboard.read_text()
    assert "found to agree, 1 of the 3 records behind these tables" in text
    assert "found to **differ**, 1 of the 3" in text
    section = text[text.index("## Measured again") :]
    assert f"- {describe(cells[0])}\n" in section
    assert f"- {describe(cells[1])}: accuracy 0.9, again 0.5" in section
    assert describe(cells[2]) not in section
    page = written.site.read_text()
    assert "of which 1 were" in page and "and 1 differ" in page
    assert ">differs<" in (written.site.parent / "cells.html").read_text()


def test_a_cell_that_differs_says_so_in_every_table(tmp_path: Path, run: Run) -> None:
    remeasured_run(tmp_path, signed=True)
    written = publish(tmp_path, None, [], pixels=False)
    code, report, _ = run("report", "quick", "--out", str(tmp_path))
    assert code == 0
    # The suite's cell has a value for each property.
    properties = len(suite_entries("quick")[0].cell.properties)
    for page in (written.leaderboard, tmp_path / "quick.md"):
        tables = page.read_text().partition("## How to read")[0]
        rows = "\n".join(line for line in tables.splitlines() if line.startswith("|"))
        assert rows.count(DIFFERS) == properties
        assert f"{DIFFERS}: `leakbench verify` measured" in tables
    assert DIFFERS in report
    assert (written.site.parent / "suite-quick.html").read_text().count(DIFFERS) > properties


def test_what_another_machine_wrote_is_shown_as_its_claim(tmp_path: Path, run: Run) -> None:
    cells = remeasured_run(tmp_path, signed=False)
    code, *_ = run("publish", "--out", str(tmp_path))
    assert code == 0
    text = (tmp_path / "leaderboard.md").read_text()
    assert "found to agree, 0 of the 3" in text
    section = text[text.index("### Claimed by others") :]
    assert describe(cells[0]) in section and describe(cells[1]) in section
    assert DIFFERS not in text
    assert "of which 0 were" in (tmp_path / "site" / "index.html").read_text()


def test_trusting_gives_every_machine_the_same_pages(tmp_path: Path, run: Run) -> None:
    for name, signed in (("here", True), ("elsewhere", False)):
        remeasured_run(tmp_path / name, signed)
        code, *_ = run("publish", "--out", name, "--trust-verified")
        assert code == 0
        run("report", "quick", "--out", name, "--trust-verified")
    for page in ("leaderboard.md", "quick.md", "site/index.html", "site/cells.html"):
        made = [(tmp_path / name / page).read_text() for name in ("here", "elsewhere")]
        assert made[0] == made[1]
        assert "differ" in made[0]
    assert (
        "Made by `leakbench publish --trust-verified`"
        in (tmp_path / "here" / "leaderboard.md").read_text()
    )
