"""What `results/` publishes is what its records say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.base.registry import ATTACKS
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import load_suite, suite_names
from leakbench.records.folder import read_cells, read_records
from leakbench.reports.details import csv_name, details_csv
from leakbench.reports.leaderboard import OF_THE_PAPER, laid_out, leaderboard, leading_suites
from leakbench.reports.publishing import beside_of
from leakbench.reports.site.figure_gallery import gallery
from leakbench.reports.suite_page import LIMIT, Heading, figures_of
from leakbench.reports.suite_page import page as suite_page
from leakbench.reports.suite_report import SuiteReport

RESULTS = Path(__file__).resolve().parents[1] / "results"

PUBLISHED = sorted(name for name in suite_names() if (RESULTS / f"{name}.md").is_file())


def test_something_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("suite", PUBLISHED)
def test_a_published_table_is_its_records_and_nothing_else(suite: str) -> None:
    name, content = load_suite(suite)
    # As everywhere: what the file `verified.json` says, whichever machine wrote it.
    cells, left_out = read_cells(RESULTS, expand(name, content), trust_verified=True)
    assert left_out == {}
    missing = [m.entry.key for m in cells if m.record is None and not m.entry.optional]
    page = (RESULTS / f"{suite}.md").read_text(encoding="utf-8")
    assert not missing, f"{len(missing)} cells of {suite} have no record in results/records"
    for m in cells:
        if m.record:
            assert m.record.cell.model_dump_json() == m.entry.cell.model_dump_json()
    assert {m.record.status for m in cells if m.record} <= {"done", "diverged"}
    reading = (RESULTS / f"{suite}.reading.md").read_text(encoding="utf-8")
    figures = figures_of(RESULTS, suite)
    heading = Heading(suite, content.title, f"leakbench run {suite}", reading, figures)
    assert page == suite_page(heading, SuiteReport(cells))
    assert len(page.encode()) <= LIMIT
    assert (RESULTS / csv_name(suite)).read_text(encoding="utf-8") == details_csv(cells)


@pytest.mark.parametrize("suite", PUBLISHED)
def test_the_numbers_of_a_published_table_are_in_its_csv(suite: str) -> None:
    frame = pd.read_csv(RESULTS / csv_name(suite))
    estimates = [name.removesuffix(" low, %") for name in frame if name.endswith(" low, %")]
    ends = [[f"{name}{end}, %" for end in ("", " low", " high")] for name in estimates]
    recorded = np.concatenate([frame[columns].dropna().to_numpy() for columns in ends])
    page = (RESULTS / f"{suite}.md").read_text(encoding="utf-8")
    tables = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    shown = set(re.findall(r"(-?\d+\.\d) \[(-?\d+\.\d), (-?\d+\.\d)\]", tables))
    assert len(shown) > 20
    for number in shown:
        # Up to how it was rounded.
        apart = np.abs(recorded - np.array(number, dtype=float)).max(axis=1)
        assert apart.min() < 0.0501, number


def test_the_published_leaderboard_is_its_records_and_nothing_else() -> None:
    folder = read_records(RESULTS, trust_verified=True)
    assert folder.left_out == {}
    shown = leading_suites(laid_out(folder, []), [])
    page = (RESULTS / "leaderboard.md").read_text(encoding="utf-8")
    assert [each.name for each in shown] == list(OF_THE_PAPER)
    figures = gallery(RESULTS / "figures", set(suite_names()), reconstructions=False)
    beside = beside_of(RESULTS, shown, figures)
    assert beside.pages and beside.trend
    assert page == leaderboard(shown, folder, True, beside)
    assert len(page.encode()) <= LIMIT


@pytest.mark.parametrize("suite", PUBLISHED)
def test_every_matching_attack_of_a_published_table_had_the_same_budget(suite: str) -> None:
    matching = [
        entry
        for entry in expand(*load_suite(suite))
        # Others count what costs another time, or have it of their fallback.
        if issubclass(ATTACKS.get(entry.cell.attack), GradientMatching)
    ]
    if not matching:
        pytest.skip(f"no attack of {suite} matches gradients")
    by_group: dict[tuple[str, object], set[object]] = {}
    for entry in matching:
        group = (entry.group, entry.swept.get("budget"))
        by_group.setdefault(group, set()).add(entry.cell.attack_parameters["budget"])
    assert all(len(budgets) == 1 for budgets in by_group.values()), by_group
