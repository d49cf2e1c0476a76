"""A suite's result in one line: which attack learns most from updates, and how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.markdown import one_line
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import counted
from leakbench.records.measured import Measured
from leakbench.reports.advantage import advantage_over, mean_advantage
from leakbench.reports.baselines import best_baseline
from leakbench.reports.rows import Row
from leakbench.reports.tables import Table, TableRow, by_group, table_of


@dataclass(frozen=True)
class Lead:
    """By how much an attack is above the best control with its knowledge, in one setting.

    Attributes:
        attack: its column.
        group: of the table.
        layout: of the table.
        setting: batch size, and what else differs within the table.
        above: the mean over properties of its advantages.
        properties: over how many; 0 where a table has no row for each.
    """

    attack: str
    group: str
    layout: str
    setting: str
    above: Estimate
    properties: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval lies above zero."""
        return self.above.low is not None and self.above.low > 0


MEASURES: Mapping[str, str] = {
    "exact": "individuals recovered exactly",
    "membership": "membership AUC",
}
"""Layout → what its numbers are; balanced accuracy for all others, which come first."""


@dataclass(frozen=True)
class Conclusion:
    """A suite's result.

    Attributes:
        headline: the attack and its advantage, in less than a line of a terminal.
        details: of what, over what, and where.
    """

    headline: str
    details: str


NOTHING_TO_COMPARE = Conclusion(
    "No conclusion.",
    "No attack is measured together with all controls that have its knowledge.",
)


def conclusion(cells: Sequence[Measured]) -> Conclusion:
    """Return the result of these cells.

    It names the attack and setting with the largest mean advantage among those whose interval lies
    above zero, or says that there is none.
    """
    found = leads(cells)
    certain = [lead for lead in found if lead.is_certain]
    if not found:
        return NOTHING_TO_COMPARE
    best = largest(certain or found)
    measure = MEASURES.get(best.layout, "balanced accuracy")
    over = f", mean of {best.properties} properties" if best.properties > 1 else ""
    where = one_line(f"at {best.setting}{over} (“{best.group}”)")
    if certain:
        return Conclusion(
            f"{best.attack} leads by {_points(best.above)}.",
            f"Points of {measure} above the best control with its knowledge, {where}; the largest "
            f"of {counted(len(found), 'comparison')}.",
        )
    return Conclusion(
        "No attack is certainly above the best control.",
        f"The nearest is {best.attack}: {_points(best.above)} of {measure} above the best control "
        f"with its knowledge, {where}.",
    )


def largest(found: Sequence[Lead]) -> Lead:
    """Return the largest lead, of balanced accuracy if there is one."""
    order = ["", *MEASURES]
    first = min(order.index(_kind(lead)) for lead in found)
    return max(
        (lead for lead in found if order.index(_kind(lead)) == first),
        key=lambda lead: lead.above.value or 0.0,
    )


def _kind(lead: Lead) -> str:
    return lead.layout if lead.layout in MEASURES else ""


def _points(above: Estimate) -> str:
    """Return an advantage in percentage points, with its interval."""
    assert above.value is not None
    text = f"{100 * above.value:.1f} points"
    if above.low is None or above.high is None:
        return f"{text} (too few victim batches for an interval)"
    return f"{text} [{100 * above.low:.1f}, {100 * above.high:.1f}]"


def leads(cells: Sequence[Measured]) -> list[Lead]:
    """Return the lead of every attack in every setting of which all properties are measured.

    Attacks that see outputs of deployed models do not compete.
    """
    return [lead for of_group in by_group(cells).values() for lead in _of_group(of_group)]


def _of_group(cells: Sequence[Measured]) -> Iterator[Lead]:
    table = table_of(cells)
    settings: dict[str, list[TableRow]] = {}
    for row in table.rows:
        settings.setdefault(_setting(table, row.leading, cells[0]), []).append(row)
    for setting, rows in settings.items():
        for attack in (column for column in table.columns if table.roles[column] == "attack"):
            above = [_advantage(table, row, attack) for row in rows]
            known = [each for each in above if each is not None]
            if len(known) == len(rows):
                layout = cells[0].entry.layout
                number = len(rows) if "property" in table.leading else 0
                yield Lead(attack, table.title, layout, setting, mean_advantage(known), number)


def _setting(table: Table, leading: Row, first: Measured) -> str:
    """Return the batch size, and the leading values besides the property that differ in a table."""
    values = dict(zip(table.leading, leading, strict=True))
    size = values.get("B") or values.get("batch_size") or str(first.entry.cell.batch_size)
    columns = dict(
        zip(table.leading, zip(*(row.leading for row in table.rows), strict=True), strict=True)
    )
    others = [
        f"{heading} = {value}"
        for heading, value in values.items()
        if heading not in ("property", "B", "batch_size") and len(set(columns[heading])) > 1
    ]
    return ", ".join([f"B = {size}", *others])


def _advantage(table: Table, row: TableRow, attack: str) -> Estimate | None:
    """Return an attack's advantage in a row; None where it cannot be compared."""
    value = row.values.get(attack)
    if value is None or value.compared is None or value.compared.value is None:
        return None
    baselines = [v.as_baseline(c) for c, v in row.values.items() if table.roles[c] == "baseline"]
    baseline = best_baseline(baselines, value.knowledge)
    if baseline is None or baseline.estimate is None:
        return None
    return advantage_over(value.compared, baseline.estimate)
