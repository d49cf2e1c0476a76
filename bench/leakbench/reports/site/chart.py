"""Charts of advantages over controls, as coordinates that a template draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leakbench.experiments.defense_labels import defense_level
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING, percent
from leakbench.reports.axis import Axis, Tick
from leakbench.reports.compared import setting_of_record
from leakbench.reports.site.defended import Defended

WIDTH, HEIGHT = 340, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
"""Margins in units of the chart, which scales with the page."""

MARGINS: Mapping[str, int] = {
    "width": WIDTH,
    "height": HEIGHT,
    "left": LEFT,
    "right": RIGHT,
    "top": TOP,
    "bottom": BOTTOM,
}
"""The dimensions by the template's names."""


@dataclass(frozen=True)
class Mark:
    """A level of the defense at a batch size.

    Attributes:
        x, y: its position.
        low, high: the ends of its interval, in y; None where it has none.
        series: the number of its batch size, which has a colour and a shape.
        label: what it is.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    series: int
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart of marks, such as leakage against utility for one property.

    Attributes:
        name: of the chart, such as the property.
        marks: such as levels of a defense.
        xs, ys: ticks of the axes.
        zero: the position of no advantage, in y.
        lines: number of a series → the corners of the line through its marks, as SVG has them.
    """

    name: str
    marks: tuple[Mark, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    zero: float
    lines: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Point:
    """An attack under a level of the defense, in points of a percent.

    Attributes:
        lost: the utility lost.
        advantage, low, high: the advantage over the best baseline, with its interval if it has one.
        of: what it was measured on.
    """

    lost: float
    advantage: float
    low: float | None
    high: float | None
    of: Defended


def batch_sizes(rows: Sequence[Defended]) -> list[int]:
    """Return the batch sizes among rows that can be drawn, ascending."""
    return sorted({point.of.record.cell.batch_size for point in _strongest(rows)})


def charts(rows: Sequence[Defended]) -> list[Chart]:
    """Return a chart per property: the strongest attack's advantage, and the utility lost.

    The axes are the same in all of them.
    """
    points = _strongest(rows)
    if not points:
        return []
    sizes = batch_sizes(rows)
    across = Axis([p.lost for p in points], LEFT, WIDTH - RIGHT)
    ends = [end for p in points for end in (p.advantage, p.low, p.high) if end is not None]
    up = Axis(ends, HEIGHT - BOTTOM, TOP)
    found = []
    for name in dict.fromkeys(p.of.name for p in points):
        marks = [
            Mark(
                x=across.at(p.lost),
                y=up.at(p.advantage),
                low=None if p.low is None else up.at(p.low),
                high=None if p.high is None else up.at(p.high),
                series=sizes.index(p.of.record.cell.batch_size),
                label=_label(p),
            )
            for p in points
            if p.of.name == name
        ]
        found.append(Chart(name, tuple(marks), across.ticks(), up.ticks(), up.at(0.0)))
    return found


def by_batch_size(name: str, curves: Mapping[str, Mapping[int, Estimate]]) -> Chart | None:
    """Return a chart of advantages by batch size; None if there are none.

    Args:
        name: of the chart.
        curves: where, or by which attack, they were measured → batch size, ascending → advantage;
            a series each.
    """
    defined = {
        (series, label, size): above
        for series, (label, of) in enumerate(curves.items())
        for size, above in of.items()
        if above.value is not None
    }
    if not defined:
        return None
    sizes = sorted({size for _, _, size in defined})
    step = (WIDTH - RIGHT - LEFT) / len(sizes)
    middle = {size: LEFT + step * (place + 0.5) for place, size in enumerate(sizes)}
    ends = [e for of in defined.values() for e in (of.value, of.low, of.high) if e is not None]
    up = Axis([100 * end for end in ends], HEIGHT - BOTTOM, TOP)
    at_size = {size: [s for s, _, of in defined if of == size] for size in sizes}

    def x_of(series: int, size: int) -> float:
        beside = at_size[size]
        return round(middle[size] + BESIDE * (beside.index(series) - (len(beside) - 1) / 2), 1)

    marks = tuple(
        Mark(
            x=x_of(series, size),
            y=up.at(100 * (above.value or 0.0)),
            low=None if above.low is None else up.at(100 * above.low),
            high=None if above.high is None else up.at(100 * above.high),
            series=series,
            label=f"{label}, B = {size}: {percent(above)} points",
        )
        for (series, label, size), above in defined.items()
    )
    xs = tuple(Tick(round(at, 1), str(size)) for size, at in middle.items())
    corners: dict[int, list[str]] = {}
    for each in marks:
        corners.setdefault(each.series, []).append(f"{each.x},{each.y}")
    lines = {series: " ".join(of) for series, of in corners.items() if len(of) > 1}
    return Chart(name, marks, xs, up.ticks(), up.at(0.0), lines)


BESIDE = 14
"""Between the marks of two series at one batch size."""


def _label(point: _Point) -> str:
    cell = point.of.record.cell
    assert point.of.advantage is not None
    return (
        f"B = {cell.batch_size}, {defense_level(cell) or MISSING}: advantage "
        f"{percent(point.of.advantage)}, utility lost {point.lost:.1f}"
    )


def _strongest(rows: Sequence[Defended]) -> list[_Point]:
    """Return the attack with the greatest advantage in each setting, level and property."""
    best: dict[tuple[str, str], _Point] = {}
    for row in rows:
        above, lost = row.advantage, row.cost.utility_lost if row.cost else None
        if above is None or lost is None or lost.value is None or above.value is None:
            continue
        low, high = (None if end is None else 100 * end for end in (above.low, above.high))
        point = _Point(100 * lost.value, 100 * above.value, low, high, row)
        where = (setting_of_record(row.record), row.name)
        if where not in best or best[where].advantage < point.advantage:
            best[where] = point
    return list(best.values())
