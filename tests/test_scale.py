"""The work of every command on records grows as their number does, and no faster."""

from __future__ import annotations

import contextlib
import gc
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import leakbench.records.store
import leakbench.reports.site.folder
from counting import lines_run, more_than_linear
from leakbench.base import canonical, plugins
from leakbench.base import files as base_files
from leakbench.base.long_lived import MIDDLE, MIDDLE_WHERE_MEASURED, OLD, YOUNG
from leakbench.base.markdown import markdown_table
from leakbench.cli.main import app
from leakbench.records.measured import Measured
from leakbench.reports import leaderboard, publishing, suite_report
from leakbench.reports.missing import rows_without_data
from leakbench.reports.site import paged
from leakbench.reports.site.view import made_unique
from leakbench.reports.tables import FAILED, UNMEASURED, Table, TableRow
from leakbench.sweep.shard import Shard
from many_records import OF_A_SEED, write_many
from records import suite_entries

SIZES = (1, 2, 4)
"""Seeds, of `OF_A_SEED` cells each."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "many.toml", "--out", "run"),
    "plan": ("plan", "many.toml", "--out", "run", "--redo", "never"),
    "results": ("results", "table.csv", "--out", "run"),
    "merge": ("merge", "run", "--out", "merged"),
    "verify": ("verify", "run", "--sample", "0"),
    "publish": ("publish", "--out", "run", "--suite", "many.toml"),
}


def ran(*arguments: str) -> None:
    """Run the command line, whatever its exit code."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        app(arguments, standalone_mode=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with runs of these sizes; the first is for what is done at a first use only."""
    made = []
    for size in (1, *SIZES):
        made.append(tmp_path_factory.mktemp(f"seeds-{size}"))
        write_many(made[-1], size)
    return made


@pytest.fixture(autouse=True)
def these_suites_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come with leakbench take the same time whatever the number of records."""
    monkeypatch.setattr(leaderboard, "OF_THE_PAPER", ())
    for module in (leaderboard, publishing):
        monkeypatch.setattr(module, "suite_names", lambda: [])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_work_grows_as_the_number_of_records_does(
    command: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done at a first use, such as imports, is done before counting."""
    counts: list[Counter[CodeType]] = []
    for folder in folders:
        monkeypatch.chdir(folder)
        counts.append(lines_run(lambda: ran(*COMMANDS[command])))
    assert sum(counts[-1].values()) > 1000
    assert more_than_linear(counts[1:]) == {}


@pytest.mark.parametrize(
    ("command", "times"), [("plan", 1), ("results", 1), ("report", 1), ("publish", 1)]
)
def test_a_record_is_read_once(
    command: str, times: int, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[0])
    reads: Counter[Path] = Counter()
    read = leakbench.records.store.read_regular

    def counted(path: Path) -> bytes:
        reads[path] += 1
        return read(path)

    monkeypatch.setattr(leakbench.records.store, "read_regular", counted)
    ran(*COMMANDS[command])
    assert len(reads) == OF_A_SEED
    # `report` looks for a first one before its tables.
    assert sum(reads.values()) <= times * OF_A_SEED + 1


@pytest.mark.parametrize("command", ["report", "plan", "verify", "publish"])
def test_plugins_of_many_cells_are_built_once(
    command: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often for 32 records as for 8, whose attacks and defenses are the same."""
    build, built = plugins.build, Counter[Path]()
    for folder in (folders[1], folders[-1]):

        def counted(*given: Any, at: Path = folder) -> Any:
            built[at] += 1
            return build(*given)

        monkeypatch.setattr(plugins, "build", counted)
        monkeypatch.chdir(folder)
        ran(*COMMANDS[command])
    few, many = (built[folder] for folder in (folders[1], folders[-1]))
    assert 0 < many == few


def test_a_table_is_computed_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is on the page and printed, or in the leaderboard and on the site."""
    computed: list[int] = []
    table_of = suite_report.table_of

    def noted(cells: Sequence[Measured]) -> Table:
        computed.append(len(cells))
        return table_of(cells)

    monkeypatch.setattr(suite_report, "table_of", noted)
    monkeypatch.chdir(folders[0])
    for command in ("report", "publish"):
        computed.clear()
        ran(*COMMANDS[command])
        assert computed == [OF_A_SEED]


def test_attacks_are_ranked_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """For the leaderboard and for the site."""
    ranked: list[int] = []
    rank = leaderboard.rankings

    def noted(cells: Sequence[Measured], *claims: Any) -> Any:
        ranked.append(len(cells))
        return rank(cells, *claims)

    monkeypatch.setattr(leaderboard, "rankings", noted)
    monkeypatch.chdir(folders[0])
    ran("publish", "--out", "run", "--suite", "many.toml", "--site", "ranked")
    assert ranked == [OF_A_SEED]


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_of_parameters_are_encoded_once(
    command: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often for 32 records as for 8, which have the same tables."""
    write, encoded = canonical._written, Counter[Path]()
    for folder in (folders[1], folders[-1]):

        def counted(value: Any, at: Path = folder) -> str:
            encoded[at] += 1
            return write(value)

        canonical._of_exact.cache_clear()
        monkeypatch.setattr(canonical, "_written", counted)
        monkeypatch.chdir(folder)
        ran(*COMMANDS[command])
    few, many = (encoded[folder] for folder in (folders[1], folders[-1]))
    assert 0 < many == few


@pytest.mark.parametrize("command", COMMANDS)
def test_living_records_are_not_visited_again_and_again(
    command: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = set()
    read = leakbench.records.store.read_regular

    def noted(path: Path) -> bytes:
        thresholds.add(gc.get_threshold())
        return read(path)

    monkeypatch.setattr(leakbench.records.store, "read_regular", noted)
    monkeypatch.setattr(base_files, "read_regular", noted)
    monkeypatch.chdir(folders[0])
    before = gc.get_threshold()
    ran(*COMMANDS[command])
    # Attacks that `verify` runs again leave objects that must not wait for the end.
    middle = MIDDLE_WHERE_MEASURED if command == "verify" else MIDDLE
    assert thresholds == {(YOUNG, middle, OLD)}
    assert gc.get_threshold() == before


def test_rows_without_data_are_named_in_linear_time() -> None:
    def table(size: int) -> Table:
        rows = [
            TableRow(
                (str(seed), "gender"), {"IG": UNMEASURED if seed % 2 else FAILED}, (), None, ()
            )
            for seed in range(size)
        ]
        of = {"IG": "IG"}
        return Table("T", ("seed", "property"), ("IG",), of, {"IG": "attack"}, (), tuple(rows))

    counts = [lines_run(partial(rows_without_data, table(size))) for size in (32, 64, 128)]
    assert "No data for 16 rows: seed = 1; seed = 3;" in rows_without_data(table(32))
    assert more_than_linear(counts) == {}


def test_counting_tells_quadratic_work_from_linear() -> None:
    def of_size(size: int, work: Callable[[int], object]) -> Counter[CodeType]:
        return lines_run(partial(work, size))

    def named(size: int) -> object:
        return made_unique(["a"] * size)

    def quadratic(size: int) -> object:
        return [made_unique(["a"] * size) for _ in range(size)]

    assert more_than_linear([of_size(size, named) for size in (16, 32, 64)]) == {}
    assert more_than_linear([of_size(size, quadratic) for size in (16, 32, 64)])


def test_parts_of_a_sweep_are_chosen_in_linear_time(tmp_path: Path) -> None:
    _, suite = write_many(tmp_path, 4)
    cells = suite_entries(str(suite))
    assert all(cell.resolved.work >= 0 for cell in cells)  # Computed once for each.
    counts = [lines_run(partial(Shard(1, size).of, cells[:size])) for size in (8, 16, 32)]
    assert more_than_linear(counts) == {}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(paged, "ROWS", 5)
    yield


def test_tables_of_cells_are_spread_over_pages_that_lead_to_each_other(
    folders: list[Path], small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 cells of 2 properties: 4 pages of 5 rows; an attack's 4 rows are on its own page."""
    monkeypatch.chdir(folders[0])
    ran("publish", "--out", "run", "--suite", "many.toml", "--site", "paged")
    site = folders[0] / "paged"
    pages = [site / "cells.html", *(site / f"cells.{number}.html" for number in (2, 3, 4))]
    texts = [page.read_text() for page in pages]
    assert [text.count("<tr id=k") for text in texts] == [5, 5, 5, 1]
    assert "Rows 6 to 10 of 16." in texts[1]
    for text in texts:
        assert text.count('<a href="cells') == 4  # Three other pages, and the navigation.
    assert not (site / "cells.5.html").exists()
    assert not (site / "attack-feature.2.html").exists()


def test_every_row_is_linked_where_it_is(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An odd number of rows on a page, so that a cell's two rows are on two."""
    monkeypatch.setattr(paged, "ROWS", 3)
    monkeypatch.chdir(folders[0])
    ran("publish", "--out", "run", "--suite", "many.toml", "--site", "odd")
    texts = {path.name: path.read_text() for path in (folders[0] / "odd").glob("*.html")}
    links = [
        (name, *target)
        for name, text in texts.items()
        for target in re.findall(r'href="?([^"#> ]*)#(k[^"> ]*)', text)
    ]
    assert {"attack-blind.2.html", "attack-feature.2.html"} <= {page for _, page, _ in links}
    for name, page, row in links:
        assert f"<tr id={row}>" in texts[page or name], (name, page, row)


def test_a_page_is_made_when_it_is_written(
    folders: list[Path], small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large table no two pages are in memory at once."""
    made: list[int] = []
    page = paged.PagedTable.page

    def noted(self: paged.PagedTable[object], number: int) -> object:
        made.append(number)
        return page(self, number)

    monkeypatch.setattr(paged.PagedTable, "page", noted)
    monkeypatch.chdir(folders[0])
    written: list[str] = []
    write = leakbench.reports.site.folder._write

    def noting(path: Path, content: bytes) -> None:
        if path.name.startswith("cells"):
            written.append(path.name)
            assert made[-1] == len(written)
        write(path, content)

    monkeypatch.setattr(leakbench.reports.site.folder, "_write", noting)
    ran("publish", "--out", "run", "--suite", "many.toml", "--site", "lazily")
    assert written == ["cells.html", "cells.2.html", "cells.3.html", "cells.4.html"]


@pytest.mark.parametrize(
    ("rows", "columns", "table"),
    [
        ([], ["a", "b"], "| a   | b   |\n|-----|-----|"),
        ([["x|y", "1\n2"]], ["a", "b"], "| a    | b   |\n|:-----|:----|\n| x\\|y | 1 2 |"),
        ([["日本", "é"]], ["a", "b"], "| a    | b   |\n|:-----|:----|\n| 日本 | é   |"),
    ],
)
def test_a_table_is_what_tabulate_made_of_it(
    rows: list[list[str]], columns: list[str], table: str
) -> None:
    assert markdown_table(rows, columns) == table
