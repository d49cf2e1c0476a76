"""Tables in the paper's layout, from records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from leakbench.base.markdown import markdown_table, one_line, printable
from leakbench.base.registry import ATTACKS
from leakbench.experiments.descriptions import text_of
from leakbench.metrics.formatting import MISSING
from leakbench.records.measured import Measured
from leakbench.reports.marks import BEST
from leakbench.reports.missing import missing_lines, rows_without_data
from leakbench.reports.remarks import FEW_BATCHES
from leakbench.reports.rows import Row
from leakbench.reports.settings import setting_lines
from leakbench.reports.tables import OF_ALL_PROPERTIES, Table, TableRow, by_group, table_of
from leakbench.reports.utility_costs import cost_aid


class SuiteReport:
    """What is said of a suite's cells; each part is computed once, however often it is shown.

    Args:
        cells: of the suite, with their records.
    """

    def __init__(self, cells: Sequence[Measured]) -> None:
        self.cells = cells
        self._tables: dict[str, tuple[Table, str]] = {}

    @cached_property
    def setting_lines(self) -> list[str]:
        """The settings, one per line."""
        return setting_lines(self.cells)

    @property
    def settings(self) -> str:
        """The settings as a Markdown list."""
        return "\n".join(f"- {one_line(line)}" for line in self.setting_lines)

    @cached_property
    def groups(self) -> dict[str, list[Measured]]:
        """Title of a group → its cells, in order of appearance."""
        return by_group(self.cells)

    def table(self, group: str) -> tuple[Table, str]:
        """Return a group's table, and the sentence below it."""
        if group not in self._tables:
            cells = self.groups[group]
            self._tables[group] = table_of(cells), terms(cells)
        return self._tables[group]

    def sections(self, marked: bool = False, level: int = 2, padded: bool = True) -> dict[str, str]:
        """Return group → its section, see `main_tables`.

        Args:
            padded: whether columns are aligned in the text too.
        """
        return {group: self.section(group, marked, level, padded) for group in self.groups}

    def section(self, group: str, marked: bool = False, level: int = 2, padded: bool = True) -> str:
        """Return a group's section; see `sections`."""
        table, sentence = self.table(group)
        parts = [f"{'#' * level} {group}", _group_table(table, marked, padded), sentence]
        return "\n\n".join(part for part in parts if part)

    def least_size(self, group: str) -> int:
        """Return a number of bytes below which no form of a group's section is, found fast."""
        table, _ = self.table(group)
        # Two bars' worth of Markdown around each value, and a line end.
        columns = len(table.leading) + len(table.columns) + len(table.cost_headings)
        return (3 * columns + 2) * sum(row.has_data for row in table.rows)

    def least_rows(self, group: str) -> int:
        """Return a number of rows that a group's table has at least, without making the table.

        No two cells of a column share a row, which expanding a suite ensures.
        """
        of_column: Counter[str] = Counter()
        for m in self.groups[group]:
            in_one_row = m.entry.layout in OF_ALL_PROPERTIES
            of_column[m.entry.column] += 1 if in_one_row else len(m.entry.cell.properties)
        return max(of_column.values())

    def printed(self) -> str:
        """Return tables, how to read them, and the settings, as Markdown to be printed."""
        tables = "\n\n".join(self.sections().values())
        settings = f"## Settings\n\n{self.settings}"
        return printable("\n\n".join((tables, reading_aid(self.cells), settings)))


def named_groups(groups: Sequence[str]) -> str:
    """Return the first of some groups in quotation marks, and how many more there are."""
    shown = "”, “".join(group[:80] for group in groups[:5])
    more = f" and {len(groups) - 5} more" if len(groups) > 5 else ""
    return f"“{shown}”{more}"


def main_tables(cells: Sequence[Measured], marked: bool = False, level: int = 2) -> str:
    """Return one table per group: balanced accuracy with its interval, in percent, or exactness.

    Args:
        marked: whether the best attack of a row is bold, where intervals permit.
        level: of the headings.
    """
    return "\n\n".join(SuiteReport(cells).sections(marked, level).values())


def terms(cells: Sequence[Measured]) -> str:
    """Return a sentence on what attacks had: evaluations, labels, and what f_p reads."""
    wordings = {
        "budget": "{} gradient evaluations per victim batch",
        "labels": "labels {}",
        "reads": "properties read off {}",
    }
    attacking = [m for m in cells if not ATTACKS.get(m.entry.cell.attack).control]
    every = {m.entry.column for m in attacking}
    parts = []
    for parameter, wording in wordings.items():
        values: dict[str, list[str]] = {}
        for m in attacking:
            known = m.entry.cell.attack_parameters
            if parameter in known:
                if parameter in m.entry.swept:
                    break
                columns = values.setdefault(text_of(known[parameter]), [])
                columns += [m.entry.column] * (m.entry.column not in columns)
        else:
            shares = [
                value if set(columns) == every else f"{value} ({', '.join(columns)})"
                for value, columns in values.items()
            ]
            if shares:
                said = wording.format(", ".join(shares))
                parts.append(said.replace("evaluations", "evaluation") if shares == ["1"] else said)
    return f"Attacks have {'; '.join(parts)}." if parts else ""


def _group_table(table: Table, marked: bool, padded: bool) -> str:
    """Return a group's table, and below it what its marks mean and which rows lack data."""
    rows = [row for row in table.rows if row.has_data]
    if not rows:
        return rows_without_data(table)
    leading = [row.leading for row in rows]
    lines = [
        [
            *_without_repeats(row.leading, leading, i),
            *(_shown(row, column, marked) for column in table.columns),
            *map(str, row.costs),
            *("; ".join(row.remarks) for _ in table.remark_headings),
        ]
        for i, row in enumerate(rows)
    ]
    attacks = [table.headings[column] for column in table.columns]
    headings = [*table.leading, *attacks, *table.cost_headings, *table.remark_headings]
    best = BEST if marked and any(row.best for row in rows) else ""
    parts = (markdown_table(lines, headings, padded), best, table.note, rows_without_data(table))
    return "\n\n".join(filter(None, parts))


def _shown(row: TableRow, column: str, marked: bool) -> str:
    """Return what a row shows of an attack, in bold where it is to be marked as best."""
    value = row.values.get(column)
    if value is None:
        return MISSING
    return f"**{value.text}**" if marked and column == row.best else value.text


def _without_repeats(row: Row, rows: Sequence[Row], index: int) -> list[str]:
    """Return a row's leading values, blank where they only repeat the row above."""
    above = rows[index - 1] if index else ("",) * len(row)
    same = True
    shown = []
    for value, before in zip(row, above, strict=True):
        same = same and value == before
        shown.append("" if same else value)
    return shown


def _notes(cells: Sequence[Measured]) -> list[str]:
    """Return a sentence for each attack that has a note, naming all of its columns."""
    columns: dict[str, list[str]] = {}
    for entry in (m.entry for m in cells):
        if note := ATTACKS.get(entry.cell.attack).note:
            named = columns.setdefault(note, [])
            named += [entry.column] * (entry.column not in named)
    return [f"**{', '.join(named)}**: {note}." for note, named in columns.items()]


def reading_aid(cells: Sequence[Measured], brief: bool = False) -> str:
    """Return what a reader must know to read the tables, and what is missing from them.

    Args:
        brief: whether to cut long errors, and many of them.
    """
    lines = (*explanations(cells), *missing_lines(cells, brief))
    return "\n\n".join(map(one_line, lines))


def reading_lines(cells: Sequence[Measured]) -> list[str]:
    """Return the paragraphs of `reading_aid`."""
    return [*explanations(cells), *missing_lines(cells)]


def explanations(cells: Sequence[Measured]) -> list[str]:
    """Return paragraphs on what a reader must know to read the tables."""
    lines = [
        "Balanced accuracy in % [95 % bootstrap interval by victim batch, and by identity where "
        "one is shown several times]; chance is 50. Where there are fewer than "
        f"{FEW_BATCHES} victim batches, their number follows; a value without an interval has too "
        "few for one. "
        "**Prior**: the majority-class baseline, which predicts D_aux's majority for all. "
        "**Blind**: the random-auxiliary baseline, which takes random features of D_aux, of the "
        "batch's labels as far as they are known, and matches them to individuals like any "
        "attack's. "
        "**Labels**: the label baseline, which takes D_aux's mean feature and balanced share of "
        "the property for each of these labels. Of an attack's number, only what is above the "
        "best baseline with its knowledge is learnt from the update; the settings say what each "
        "knows of the labels. "
        "**Oracle**: f_p on the true features, an upper bound for attacks that infer through them.",
    ]
    if any(m.entry.layout == "exact" for m in cells):
        lines.append(
            "**Exactness**: % of individuals whose feature was reconstructed with a cosine ≥ 0.99 "
            "[interval]; % of individuals whose features the attack certifies as exact, and, if "
            "there are any, the number of false certificates, with a cosine below 0.9999; if "
            "the attack takes more features for exact than it certifies, % of individuals for whom "
            "it does (claimed), and % of these for whom it is right; seconds per victim batch."
        )
    if any(m.entry.layout == "membership" for m in cells):
        lines.append(
            "**Membership**: the attack is shown each batch's individuals and as many others. AUC "
            "in % [interval], chance is 50; then the true positive rate at a false positive rate "
            "of 1 % (TPR @ 1 % FPR) in % [interval]."
        )
    lines += cost_aid(cells)
    lines += _notes(cells)
    if any(m.entry.cell.auxiliary_source != m.entry.cell.dataset for m in cells):
        lines.append(
            "Where D_aux comes from another data set, some victims may appear in it too: data sets "
            "do not share identity numbers. If it has no labels of the main task (see the "
            "settings), attacks and controls that sample D_aux by label sample all of it, and "
            "**Blind** and **Labels** do not account for what known labels alone reveal."
        )
    return lines
