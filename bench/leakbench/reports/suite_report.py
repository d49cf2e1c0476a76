"""Tables in the paper's layout, from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from leakbench.base.markdown import markdown_table
from leakbench.base.registry import ATTACKS, DATASETS
from leakbench.experiments.descriptions import describe, text_of
from leakbench.records.measured import Measured
from leakbench.reports.details import details
from leakbench.reports.rows import MISSING, Row, is_implied
from leakbench.reports.settings import settings
from leakbench.reports.tables import TableRow, by_group, table_of
from leakbench.reports.utility_costs import price_aid


def markdown(title: str, cells: Sequence[Measured], command: str, reading: str = "") -> str:
    """Return a suite's whole report.

    Args:
        reading: what somebody has to say of the tables, put under them.
    """
    parts = [f"# {title}", f"Made by `{command}`."]
    parts += [main_tables(cells), reading_aid(cells), reading.strip()]
    parts += [details(cells), settings(cells)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main_tables(cells: Sequence[Measured], marked: bool = False) -> str:
    """Return one table a group: balanced accuracy with its interval, in percent, or exactness.

    Args:
        marked: whether the best attack of a row stands in bold, where intervals permit.
    """
    tables = []
    for group, of_group in by_group(cells).items():
        parts = [f"## {group}", _group_table(of_group, marked), terms(of_group)]
        tables.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(tables)


def terms(cells: Sequence[Measured]) -> str:
    """Return a sentence on what attacks were given: evaluations, labels, and what f_p reads."""
    wordings = {
        "budget": "{} gradient evaluations a victim batch",
        "labels": "labels {}",
        "reads": "properties read off {}",
    }
    attacking = [m for m in cells if not ATTACKS.get(m.entry.cell.attack).control]
    every = {m.entry.column for m in attacking}
    said = []
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
                said.append(wording.format(", ".join(shares)))
    return f"Attacks have {'; '.join(said)}." if said else ""


def _group_table(cells: Sequence[Measured], marked: bool) -> str:
    table = table_of(cells)
    leading = [row.leading for row in table.rows]
    lines = [
        [
            *_without_repeats(row.leading, leading, i),
            *(_shown(row, column, marked) for column in table.columns),
            *(row.prices.get(heading, MISSING) for heading in table.trailing),
        ]
        for i, row in enumerate(table.rows)
    ]
    return markdown_table(lines, [*table.leading, *table.columns, *table.trailing])


def _shown(row: TableRow, column: str, marked: bool) -> str:
    """Return what stands in a place, in bold where it is to be marked as best."""
    value = row.values.get(column)
    if value is None:
        return MISSING
    return f"**{value.text}**" if marked and column == row.best else value.text


def _without_repeats(row: Row, rows: Sequence[Row], index: int) -> list[str]:
    """Return a row's leading values, those blank that only repeat the row above."""
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


def _needs(cells: Iterable[Measured]) -> list[str]:
    """Return for each data set without which optional cells are not measured what it needs."""
    absent = dict.fromkeys(
        m.entry.cell.dataset for m in cells if m.entry.optional and m.record is None
    )
    return [
        f"{name} ({MISSING}) needs {DATASETS.get(name).source}; put it into "
        f"DIR/{DATASETS.get(name).folder} and pass --data-root DIR."
        for name in absent
    ]


def reading_aid(cells: Sequence[Measured]) -> str:
    """Return what a reader must know to read the tables, and what is missing from them."""
    return "\n\n".join(reading_lines(cells))


def reading_lines(cells: Sequence[Measured]) -> list[str]:
    """Return the paragraphs of `reading_aid`."""
    lines = [
        "Balanced accuracy in % [95 % bootstrap interval by victim batch, and by identity where "
        "one is shown several times]; chance is 50. "
        "**Prior**: D_aux's majority for everybody. **Blind**: random features of D_aux, matched "
        "to individuals like any attack's, of the batch's labels where they are known; an attack "
        "has learnt only what it earns above this. "
        "**Oracle**: f_p on the true features, the most that any attack through them can earn.",
    ]
    if any(m.entry.layout == "exact" for m in cells):
        lines.append(
            "**Exactness**: % of individuals whose feature was found with a cosine ≥ 0.99 "
            "[interval]; % of individuals whom the attack itself certifies, and, if there are any, "
            "the number of those with a cosine below 0.9999; seconds a victim batch."
        )
    if any(m.entry.layout == "membership" for m in cells):
        lines.append(
            "**Membership**: the attack is shown each batch's individuals and as many others. AUC "
            "in % [interval], chance is 50; then % [interval] of the members who are found where "
            "at most 1 % of the others are taken for members."
        )
    lines += price_aid(cells)
    lines += _notes(cells)
    if any(m.entry.cell.auxiliary_source != m.entry.cell.dataset for m in cells):
        lines.append(
            "Where D_aux comes from another data set, that set may show some of the victims: each "
            "numbers its people for itself. If it has no labels of the main task (see the "
            "settings), whatever draws individuals of D_aux by label draws anybody, and **Blind** "
            "does not account for what known labels alone tell."
        )
    if any(is_implied(m, name) for m in cells for name in m.entry.cell.properties):
        lines.append("† The main task's own label gives this property away.")
    unique = {m.entry.key: m for m in cells}.values()
    missing = sum(m.record is None and not m.entry.optional for m in unique)
    failed = [m for m in unique if m.record is not None and m.record.status == "failed"]
    if missing:
        lines.append(f"{missing} of {len(unique)} cells are not measured yet ({MISSING}).")
    lines += _needs(unique)
    for measured in failed:
        assert measured.record is not None
        lines.append(f"Failed: {describe(measured.entry)}: {measured.record.error}")
    return lines
