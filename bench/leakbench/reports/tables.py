"""A suite's tables as values: what each row shows, and which attack is best in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING, FormattedNumber
from leakbench.metrics.of_attacks import (
    CERTIFIED_SHARE,
    CLAIMED_RIGHTLY,
    CLAIMED_SHARE,
    DIVERGED,
    EXACT_SHARE,
    MEMBERSHIP_AUC,
    MEMBERSHIP_TPR,
)
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics
from leakbench.reports.baselines import (
    Baseline,
    best_baseline,
    is_above,
    knowledge_of,
    lacks_label_baseline,
    tells_labels,
)
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.marks import DIFFERS, FAILURE, IMPLIED, explained_marks
from leakbench.reports.remarks import batches_text, explained, row_remarks
from leakbench.reports.rows import (
    LAYOUTS,
    Row,
    leading_of_properties,
    leading_values,
    varying_settings,
)
from leakbench.reports.utility_costs import cost_columns

Role = Literal["attack", "baseline", "upper bound", "outputs"]
"""What a column is: an attack that competes for the mark, a control, or an attack that sees outputs
of deployed models, which stands apart."""

REMARKS = "remarks"
"""The heading of the column of remarks."""


class TableValue(NamedTuple):
    """What a row shows of an attack or control.

    Attributes:
        number: its metric.
        remarks: what follows it.
        compared: the number by which attacks are compared; None where there is none.
        knowledge: the names of the kinds of knowledge that it had.
        tells_labels: whether it is a label baseline.
    """

    number: FormattedNumber
    remarks: tuple[str, ...] = ()
    compared: Estimate | None = None
    knowledge: frozenset[str] = frozenset()
    tells_labels: bool = False

    def as_baseline(self, title: str) -> Baseline:
        """It as a baseline."""
        return Baseline(title, self.knowledge, self.compared, self.tells_labels)

    @property
    def text(self) -> str:
        """All of it in a line."""
        return ", ".join((str(self.number), *self.remarks))

    @property
    def detail(self) -> str:
        """What follows the number's value."""
        return ", ".join(filter(None, (self.number.detail, *self.remarks)))


UNMEASURED = TableValue(FormattedNumber(MISSING))
FAILED = TableValue(FormattedNumber(FAILURE))


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        leading: the values of the leading columns.
        values: by the column of an attack or control; those that are missing have none.
        costs: what the row's defense costs, one for each of the table's `cost_headings`.
        best: the column of the best attack, where intervals are apart; see `best_column`.
        remarks: what a reader must know of the row; see `leakbench.reports.remarks`.
    """

    leading: Row
    values: Mapping[str, TableValue]
    costs: tuple[FormattedNumber, ...]
    best: str | None
    remarks: tuple[str, ...]

    @cached_property
    def has_data(self) -> bool:
        """Whether an attack or control has been measured, or has failed."""
        return any(value.text != MISSING for value in self.values.values())


@dataclass(frozen=True)
class Table:
    """The table of a suite's group.

    Attributes:
        title: the group's.
        leading: the headings of the leading columns: settings that vary within the table, and
            those that its layout always has.
        columns: those of attacks and controls, in order: attacks that see updates, controls,
            attacks that see outputs.
        headings: of the columns.
        roles: of the columns.
        cost_headings: of the columns on what a defense costs.
        rows: in reading order.
    """

    title: str
    leading: tuple[str, ...]
    columns: tuple[str, ...]
    headings: Mapping[str, str]
    roles: Mapping[str, Role]
    cost_headings: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @cached_property
    def controls(self) -> frozenset[str]:
        """The columns that are controls."""
        return frozenset(c for c, role in self.roles.items() if role in ("baseline", "upper bound"))

    @cached_property
    def remark_headings(self) -> tuple[str, ...]:
        """The last column's heading; none where no row has a remark."""
        return (REMARKS,) if any(row.remarks for row in self.rows) else ()

    @property
    def remark_note(self) -> str:
        """The explanation of the remarks; empty where there are none."""
        return explained(remark for row in self.rows for remark in row.remarks)

    @property
    def mark_note(self) -> str:
        """The explanation of the marks at values; empty where there are none."""
        rows = [row for row in self.rows if row.has_data]
        implied = [text for row in rows for text in row.leading if text.endswith(IMPLIED)]
        values = (row.values.get(column, UNMEASURED) for row in rows for column in self.columns)
        return explained_marks([*implied, *(value.text for value in values)])

    @property
    def note(self) -> str:
        """Both explanations."""
        return " ".join(filter(None, (self.remark_note, self.mark_note)))


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
    columns = (*varying, *leading)
    values: dict[Row, dict[str, TableValue]] = {}
    of_row: dict[Row, list[Measured]] = {}
    for measured in cells:
        of_cell = OF_ALL_PROPERTIES.get(measured.entry.layout)
        rows = (
            {"": leading_values(measured, "", columns)}
            if of_cell
            else leading_of_properties(measured, columns)
        )
        for name, row in rows.items():
            value = of_cell(measured) if of_cell else _accuracy(measured, name)
            values.setdefault(row, {})[measured.entry.column] = _with_outcome(
                _in_context(value, measured), measured
            )
            of_row.setdefault(row, []).append(measured)
    roles = _roles(cells)
    # The cells of a row differ in the attack only, and have the same defense.
    metrics = {row: _any_metrics(of) for row, of in of_row.items()}
    costs = cost_columns(metrics.values()) if layout == "defense" else ()

    def costs_of(row: Row) -> tuple[FormattedNumber, ...]:
        found = metrics[row]
        missing = FormattedNumber(MISSING)
        return tuple(missing if found is None else column.number(found) for column in costs)

    def remarks_of(row: Row) -> tuple[str, ...]:
        shown = [(roles[c], v) for c, v in values[row].items() if v.compared is not None]
        bounds = [v.compared for role, v in shown if role == "upper bound" and v.compared]
        knowledge = [v.knowledge for role, v in shown if role == "attack"]
        baselines = [v.as_baseline(c) for c, v in values[row].items() if roles[c] == "baseline"]
        return row_remarks(
            of_row[row],
            [] if layout in OF_ALL_PROPERTIES else bounds,
            knowledge,
            # Labels tell of no candidate whether it is a member.
            layout != "membership" and any(lacks_label_baseline(baselines, k) for k in knowledge),
        )

    return Table(
        title=cells[0].entry.group,
        leading=columns,
        columns=tuple(roles),
        headings=_headings(cells, roles),
        roles=roles,
        cost_headings=tuple(column.heading for column in costs),
        rows=tuple(
            TableRow(
                leading=row,
                values=values[row],
                costs=costs_of(row),
                best=best_column(values[row], roles),
                remarks=remarks_of(row),
            )
            for row in _in_reading_order(values)
        ),
    )


def _roles(cells: Sequence[Measured]) -> dict[str, Role]:
    """Return the role of each column, in the columns' order."""
    roles: dict[str, Role] = {}
    for m in cells:
        role: Role = ATTACKS.get(m.entry.cell.attack).control or "attack"
        sees_outputs = role == "attack" and "outputs" in knowledge_of(m)
        if sees_outputs or m.entry.column not in roles:
            roles[m.entry.column] = "outputs" if sees_outputs else role
    return dict(sorted(roles.items(), key=lambda item: item[1] == "outputs"))


def _headings(cells: Sequence[Measured], roles: Mapping[str, Role]) -> dict[str, str]:
    """Return the heading of each column: one that stands apart says what it sees."""
    sees_update = {m.entry.column for m in cells if "update" in knowledge_of(m)}
    headings = {}
    for column, role in roles.items():
        sees = "outputs and the gradient" if column in sees_update else "outputs, no gradient"
        headings[column] = f"{column} ‖ sees {sees}" if role == "outputs" else column
    return headings


def _any_metrics(cells: Sequence[Measured]) -> Metrics | None:
    """Return the metrics of the first of these cells that has some."""
    return next((m.record.metrics for m in cells if m.record and m.record.metrics), None)


def _in_context(value: TableValue, measured: Measured) -> TableValue:
    """Return a value with what its attack knew and, where they are few, the number of batches."""
    number = value.number
    if value.compared is not None:
        batches = batches_text(measured.entry.resolved.updates)
        number = number._replace(detail=" ".join(filter(None, (number.detail, batches))))
    return value._replace(
        number=number,
        knowledge=knowledge_of(measured),
        tells_labels=tells_labels(measured.entry.cell.attack),
    )


def best_column(values: Mapping[str, TableValue], roles: Mapping[str, Role]) -> str | None:
    """Return the attack whose interval lies above every other attack's; None where there is none.

    Controls and attacks that see outputs do not compete. There must be two attacks to compare, all
    of them measured, and the best one must have learnt something: its interval must lie above that
    of the best baseline with its knowledge, see `best_baseline`.

    Args:
        values: of a row, by column.
        roles: of all columns of its table.
    """

    def of_role(wanted: Role) -> dict[str, TableValue]:
        return {c: values.get(c, UNMEASURED) for c, role in roles.items() if role == wanted}

    attacks = {column: value.compared for column, value in of_role("attack").items()}
    estimates = {c: e for c, e in attacks.items() if e is not None and e.value is not None}
    if len(attacks) < 2 or len(estimates) < len(attacks):
        return None
    best = max(estimates, key=lambda column: estimates[column].value or 0.0)
    rivals = [estimate for column, estimate in estimates.items() if column != best]
    baselines = [value.as_baseline(column) for column, value in of_role("baseline").items()]
    baseline = best_baseline(baselines, values[best].knowledge)
    if baseline is None or baseline.estimate is None:
        return None
    above = all(is_above(estimates[best], lower) for lower in (*rivals, baseline.estimate))
    return best if above else None


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
    return value._replace(remarks=(*value.remarks, DIFFERS))


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
        share = str(DIVERGED.text(metrics))
        diverged = f"({'under 1' if share == '0' else share} % diverged)"
        number = FormattedNumber(number.value, " ".join(filter(None, (number.detail, diverged))))
    return TableValue(number, compared=accuracy)


def _exactness(measured: Measured, metrics: Metrics) -> TableValue:
    """Return how many features were reconstructed exactly, and the seconds per batch."""
    remarks = []
    if metrics.certificates is not None:
        false = metrics.certificates.false
        certified = f"certified {CERTIFIED_SHARE.text(metrics)}"
        remarks.append(f"{certified} ({false} falsely)" if false else certified)
        if metrics.claimed is not None and metrics.claimed.share > metrics.certificates.share:
            right = f"{CLAIMED_RIGHTLY.text(metrics)} of these rightly"
            remarks.append(f"claimed {CLAIMED_SHARE.text(metrics)}, {right}")
    seconds = seconds_per_batch(measured)
    if seconds is not None:
        remarks.append(f"{seconds:.2g} s")
    return TableValue(EXACT_SHARE.text(metrics), tuple(remarks), metrics.exact)


def _membership(_: Measured, metrics: Metrics) -> TableValue:
    """Return how well members of batches are separated from other candidates."""
    if metrics.membership is None:
        return UNMEASURED
    true_positive_rate = str(MEMBERSHIP_TPR.text(metrics))
    return TableValue(MEMBERSHIP_AUC.text(metrics), (true_positive_rate,), metrics.membership.auc)


def _of_cell(show: Callable[[Measured, Metrics], TableValue]) -> Callable[[Measured], TableValue]:
    """Return what shows a cell by its metrics, if it has a record."""

    def value(measured: Measured) -> TableValue:
        record = measured.record
        if record is None:
            return UNMEASURED
        return FAILED if record.metrics is None else show(measured, record.metrics)

    return value


OF_ALL_PROPERTIES: Mapping[str, Callable[[Measured], TableValue]] = {
    "exact": _of_cell(_exactness),
    "membership": _of_cell(_membership),
}
"""Layouts that have no row for each property → what they show."""
