"""A suite's tables as values: what each row shows, and which attack is best in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING, FormattedNumber
from leakbench.metrics.of_attacks import (
    CERTIFIED_SHARE,
    DIVERGED,
    EXACT_SHARE,
    MEMBERSHIP_AUC,
    MEMBERSHIP_TPR,
)
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.rows import LAYOUTS, Row, leading_values, varying_settings
from leakbench.reports.utility_costs import cost_columns

RANDOM_AUXILIARY = "blind"
"""The random-auxiliary baseline: an attack that is not above it has learnt nothing."""

DIFFERS = "differs when measured again"
"""The remark at a cell of which `leakbench verify` measured other numbers."""


@dataclass(frozen=True)
class TableValue:
    """What a row shows of an attack or control.

    Attributes:
        number: its metric.
        remarks: what follows it.
        compared: the number by which attacks are compared; None where there is none.
    """

    number: FormattedNumber
    remarks: tuple[str, ...] = ()
    compared: Estimate | None = None

    @property
    def text(self) -> str:
        """All of it in a line."""
        return ", ".join((str(self.number), *self.remarks))

    @property
    def detail(self) -> str:
        """What follows the number's value."""
        return ", ".join(filter(None, (self.number.detail, *self.remarks)))


UNMEASURED = TableValue(FormattedNumber(MISSING))
FAILED = TableValue(FormattedNumber("failed"))


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        leading: the values of the leading columns.
        values: by the column of an attack or control; those that are missing have none.
        costs: what the row's defense costs, one for each of the table's `cost_headings`.
        best: the column of the best attack, where intervals are apart; see `best_column`.
    """

    leading: Row
    values: Mapping[str, TableValue]
    costs: tuple[FormattedNumber, ...]
    best: str | None


@dataclass(frozen=True)
class Table:
    """The table of a suite's group.

    Attributes:
        title: the group's.
        leading: the headings of the leading columns: settings that vary within the table, and
            those that its layout always has.
        columns: those of attacks and controls.
        controls: those among them that are controls.
        cost_headings: of the last columns, on what a defense costs.
        rows: in reading order.
    """

    title: str
    leading: tuple[str, ...]
    columns: tuple[str, ...]
    controls: frozenset[str]
    cost_headings: tuple[str, ...]
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
    values: dict[Row, dict[str, TableValue]] = {}
    metrics: dict[Row, Metrics | None] = {}
    for measured in cells:
        of_cell = OF_ALL_PROPERTIES.get(measured.entry.layout)
        for name in ("",) if of_cell else measured.entry.cell.properties:
            row = leading_values(measured, name, (*varying, *leading))
            value = of_cell(measured) if of_cell else _accuracy(measured, name)
            values.setdefault(row, {})[measured.entry.column] = _with_outcome(value, measured)
            # The cells of a row differ in the attack only, and have the same defense.
            if metrics.get(row) is None:
                metrics[row] = measured.record.metrics if measured.record else None
    attacks = {m.entry.column: ATTACKS.get(m.entry.cell.attack) for m in cells}
    controls = frozenset(column for column, attack in attacks.items() if attack.control)
    floors = {m.entry.column for m in cells if m.entry.cell.attack == RANDOM_AUXILIARY}
    costs = cost_columns(metrics.values()) if layout == "defense" else ()

    def costs_of(row: Row) -> tuple[FormattedNumber, ...]:
        found = metrics[row]
        missing = FormattedNumber(MISSING)
        return tuple(missing if found is None else column.number(found) for column in costs)

    return Table(
        title=cells[0].entry.group,
        leading=(*varying, *leading),
        columns=tuple(attacks),
        controls=controls,
        cost_headings=tuple(column.heading for column in costs),
        rows=tuple(
            TableRow(row, values[row], costs_of(row), best_column(values[row], controls, floors))
            for row in _in_reading_order(values)
        ),
    )


def best_column(
    values: Mapping[str, TableValue], controls: frozenset[str], floors: set[str]
) -> str | None:
    """Return the attack whose interval lies above every other attack's; None where there is none.

    Controls do not compete. There must be two attacks to compare, and the best one must have learnt
    something: its interval must lie above those of `floors` too.
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


def _in_reading_order(rows: Mapping[Row, object]) -> list[Row]:
    """Return rows with equal leading values one after the other, in order of appearance."""
    ranks = [
        {value: i for i, value in enumerate(dict.fromkeys(column))}
        for column in zip(*rows, strict=True)
    ]
    return sorted(rows, key=lambda row: [rank[v] for rank, v in zip(ranks, row, strict=True)])


def _with_outcome(value: TableValue, measured: Measured) -> TableValue:
    """Return a value with a remark if the cell, measured again, gave other numbers."""
    if measured.again is None or measured.again.outcome != "differs":
        return value
    return replace(value, remarks=(*value.remarks, DIFFERS))


def _accuracy(measured: Measured, name: str) -> TableValue:
    record = measured.record
    if record is None:
        return UNMEASURED
    metrics = record.metrics
    if metrics is None:
        return FAILED
    accuracy = metrics.properties[name].balanced_accuracy
    number = BALANCED_ACCURACY.format(accuracy)
    if metrics.diverged:
        diverged = f"({DIVERGED.text(metrics)} % diverged)"
        number = FormattedNumber(number.value, " ".join(filter(None, (number.detail, diverged))))
    return TableValue(number, compared=accuracy)


def _exactness(record: Record, metrics: Metrics) -> TableValue:
    """Return how many features were reconstructed exactly, and the seconds per batch."""
    remarks = []
    if metrics.certificates is not None:
        false = metrics.certificates.false
        certified = f"certified {CERTIFIED_SHARE.text(metrics)}"
        remarks.append(f"{certified} ({false} falsely)" if false else certified)
    if record.cost is not None:
        remarks.append(f"{seconds_per_batch(record):.2g} s")
    return TableValue(EXACT_SHARE.text(metrics), tuple(remarks), metrics.exact)


def _membership(_: Record, metrics: Metrics) -> TableValue:
    """Return how well members of batches are separated from other candidates."""
    if metrics.membership is None:
        return UNMEASURED
    true_positive_rate = str(MEMBERSHIP_TPR.text(metrics))
    return TableValue(MEMBERSHIP_AUC.text(metrics), (true_positive_rate,), metrics.membership.auc)


def _of_cell(show: Callable[[Record, Metrics], TableValue]) -> Callable[[Measured], TableValue]:
    """Return what shows a cell by its record, if it has one, and its metrics."""

    def value(measured: Measured) -> TableValue:
        record = measured.record
        if record is None:
            return UNMEASURED
        return FAILED if record.metrics is None else show(record, record.metrics)

    return value


OF_ALL_PROPERTIES: Mapping[str, Callable[[Measured], TableValue]] = {
    "exact": _of_cell(_exactness),
    "membership": _of_cell(_membership),
}
"""Layouts that have no row for each property → what they show."""
