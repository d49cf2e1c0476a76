"""The README: its length, its links, its commands, and its numbers, which are published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

LONGEST = 10_000
"""Bytes."""

NUMBER = re.compile(r"\d+\.\d \[\d+\.\d, \d+\.\d\]")


def test_it_is_short() -> None:
    assert len(README.encode()) <= LONGEST


def test_its_links_and_picture_exist() -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\((?!https://)([^)\s]+)\)", README)]
    assert len(links) >= 20
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert any(link.endswith(".png") for link in links)


def test_its_commands_are_those_that_every_change_must_pass() -> None:
    environments = set(re.findall(r"\.venv/bin/tox -e (\w+)", README))
    assert {"quick", "tests"} <= environments
    assert ".venv/bin/tox -q -e tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def table_rows(text: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The heading and the rows of each table of a Markdown text, column → cell."""
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        lines = [line for line in section.splitlines() if line.startswith("|")]
        if len(lines) > 2:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield (
                section.partition("\n")[0],
                [dict(zip(cells[0], row, strict=True)) for row in cells[2:]],
            )


def test_its_results_are_those_of_published_tables() -> None:
    """Every number of a table is of the same attack, and batch size or property, in one table."""
    ours = {heading: rows for heading, rows in table_rows(README) if heading.startswith("Clients ")}
    assert len(ours) == 2
    for heading, table in ours.items():
        (number,) = re.findall(r"\(Table (\d)\)", heading)
        published = (ROOT / "results" / f"table{number}.md").read_text(encoding="utf-8")
        claimed = {
            (row["attack"].strip("*"), column.removeprefix("B = ")): cell
            for row in table
            for column, cell in row.items()
            if column not in ("attack", "paper") and not row["attack"].startswith("paper")
        }
        assert len(claimed) >= 12
        assert all(NUMBER.fullmatch(cell) for cell in claimed.values())
        where = ("data set", "celeba", "property") if number == "1" else ("property", "gender", "B")
        tables = [numbers(rows, *where) for _, rows in table_rows(published)]
        assert any(claimed.items() <= table.items() for table in tables)


def numbers(
    rows: list[dict[str, str]], column: str, wanted: str, by: str
) -> dict[tuple[str, str], str]:
    """The numbers of rows with a value in a column: attack, without its threat model, and `by`.

    A value stands in the first of the rows that have it.
    """
    found: dict[tuple[str, str], str] = {}
    shown = ""
    for row in rows:
        shown = row.get(column) or shown
        if shown == wanted and by in row:
            found |= {(heading.split(" ‖")[0], row[by]): cell for heading, cell in row.items()}
    return found
