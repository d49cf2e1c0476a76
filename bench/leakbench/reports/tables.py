"""A suite's tables as values: what stands in each place, and which attack did best in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.estimates import Estimate, percent
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record
from leakbench.reports.rows import LAYOUTS, MISSING, Row, leading_values, varying_settings
from leakbench.reports.utility_costs import price, price_columns

NOTHING_LEARNT = "blind"
"""The control that an attack has to be above, to have learnt anything."""


@dataclass(frozen=True)
class TableValue:
    """What stands in a row under an attack or control.

    Attributes:
        text: as it is printed.
        compared: the number by which attacks are compared; None where there is none.
    """

    text: str
    compared: Estimate | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        leading: the values of the leading columns.
        values: by the column of an attack or control; those that are missing have none.
        prices: what the row's defense costs, by heading.
        best: the column that did best, where intervals permit to say so; see `best_column`.
    """

    leading: Row
    values: Mapping[str, TableValue]
    prices: Mapping[str, str]
    best: str | None


@dataclass(frozen=True)
class Table:
    """The table of a suite's group.

    Attributes:
        title: the group's.
        leading: the headings of the leading columns, which vary within the table or always stand.
        columns: those of attacks and controls.
        controls: those among them that are controls.
        trailing: the headings of what a defense costs.
        rows: in reading order.
    """

    title: str
    leading: tuple[str, ...]
    columns: tuple[str, ...]
    controls: frozenset[str]
    trailing: tuple[str, ...]
    rows: tuple[TableRow, ...]


def by_group(cells: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Return the cells by the title of their group, in order of appearance."""
    groups: dict[str, list[Measured]] = {}
    for measured in cells:
        groups.setdefault(measured.entry.group, []).append(measured)
    return groups


def table_of(cells: Sequence[Measured]) -> Table:
    """Return the table of one group's cells, at least one."""
    layout = cells[0].entry.layout
    leading = LAYOUTS[layout]
    varying = varying_settings([m.entry for m in cells], leading)
    frame: dict[Row, dict[str, TableValue]] = {}
    of_row: dict[Row, list[Measured]] = {}
    for measured in cells:
        whole = OF_ALL_PROPERTIES.get(measured.entry.layout)
        for name in ("",) if whole else measured.entry.cell.properties:
            row = leading_values(measured, name, (*varying, *leading))
            value = whole(measured) if whole else _accuracy(measured, name)
            frame.setdefault(row, {})[measured.entry.column] = value
            of_row.setdefault(row, []).append(measured)
    attacks = {m.entry.column: ATTACKS.get(m.entry.cell.attack) for m in cells}
    controls = frozenset(column for column, attack in attacks.items() if attack.control)
    floors = [m.entry.column for m in cells if m.entry.cell.attack == NOTHING_LEARNT]
    rows = tuple(
        TableRow(
            row, frame[row], price(of_row[row]), best_column(frame[row], controls, set(floors))
        )
        for row in _in_reading_order(frame)
    )
    priced = layout == "defense"
    return Table(
        title=cells[0].entry.group,
        leading=(*varying, *leading),
        columns=tuple(attacks),
        controls=controls,
        trailing=tuple(price_columns(row.prices for row in rows)) if priced else (),
        rows=rows,
    )


def best_column(
    values: Mapping[str, TableValue], controls: frozenset[str], floors: set[str]
) -> str | None:
    """Return the attack whose interval lies above every other attack's; None where there is none.

    Controls do not compete. There must be two attacks to compare, and an attack that has not learnt
    anything is no best one: its interval lies above those of `floors` too.
    """
    compared = {
        column: value.compared
        for column, value in values.items()
        if value.compared is not None and value.compared.value is not None
    }
    attacks = [column for column in compared if column not in controls]
    if len(attacks) < 2:
        return None
    best = max(attacks, key=lambda column: compared[column].value or 0.0)
    rivals = [c for c in compared if c != best and (c in attacks or c in floors)]
    apart = all(_is_above(compared[best], compared[rival]) for rival in rivals)
    return best if apart else None


def _is_above(higher: Estimate, lower: Estimate) -> bool:
    """Whether an interval lies wholly above another."""
    return higher.low is not None and lower.high is not None and higher.low > lower.high


def _in_reading_order(frame: Mapping[Row, object]) -> list[Row]:
    """Return rows so that equal leading values stand together, each in order of appearance."""
    ranks = [
        {value: i for i, value in enumerate(dict.fromkeys(column))}
        for column in zip(*frame, strict=True)
    ]
    return sorted(frame, key=lambda row: [rank[v] for rank, v in zip(ranks, row, strict=True)])


def _accuracy(measured: Measured, name: str) -> TableValue:
    record = measured.record
    if record is None:
        return TableValue(MISSING)
    if record.metrics is None:
        return TableValue("failed")
    accuracy = record.metrics.properties[name].balanced_accuracy
    shown, diverged = percent(accuracy), record.metrics.diverged
    return TableValue(f"{shown} ({100 * diverged:.0f} % diverged)" if diverged else shown, accuracy)


def _exactness(record: Record, metrics: Metrics) -> TableValue:
    """Return whose features were found exactly, and how long a batch took."""
    exact, certificates = metrics.exact, metrics.certificates
    said = [MISSING if exact is None else percent(exact)]
    if certificates is not None:
        false = f" ({certificates.false} falsely)" if certificates.false else ""
        said.append(f"certified {100 * certificates.share:.1f}{false}")
    if record.cost is not None:
        said.append(f"{record.cost.seconds / ResolvedCell.of(record.cell).updates:.2g} s")
    return TableValue(", ".join(said), exact)


def _membership(_: Record, metrics: Metrics) -> TableValue:
    """Return how well members of batches are told from others."""
    told = metrics.membership
    if told is None:
        return TableValue(MISSING)
    return TableValue(f"{percent(told.auc)}, {percent(told.true_positive_rate)}", told.auc)


def _of_all(show: Callable[[Record, Metrics], TableValue]) -> Callable[[Measured], TableValue]:
    """Return what shows a measured cell, however far it got."""

    def shown(measured: Measured) -> TableValue:
        record = measured.record
        if record is None:
            return TableValue(MISSING)
        return TableValue("failed") if record.metrics is None else show(record, record.metrics)

    return shown


OF_ALL_PROPERTIES: Mapping[str, Callable[[Measured], TableValue]] = {
    "exact": _of_all(_exactness),
    "membership": _of_all(_membership),
}
"""Layouts that have no row for each property → what they show."""
