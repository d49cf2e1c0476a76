"""Charts of an audit's page: attacks' advantages, and what defenses change, as coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leakbench.auditing.findings import DefenseEffect, Finding
from leakbench.auditing.report_parts import (
    AttackReport,
    DefenseReport,
    Outcome,
    attacks_run,
    baseline_of,
)
from leakbench.auditing.sentences import percent
from leakbench.metrics.estimates import Estimate
from leakbench.reports.axis import Axis, Tick
from leakbench.reports.figures.styles import Look, looks_of

WIDTH, EDGE = 360, 14
"""Of a chart, and from its sides to the data, in units that scale with the page."""

ROW, FOOT = 40, 38
"""Height of a row of a chart of intervals, and of its axis."""

LETTERS = 31
"""Of a row's label, at most; the rest is in its tooltip."""

HEIGHT, LEFT, BOTTOM, TOP = 270, 44, 40, 14
"""Of a chart of defenses: its height, and the space around the data."""

LETTER, LINE = 7.0, 11.0
"""Width and height of a digit beside a mark."""


@dataclass(frozen=True)
class Mark:
    """An estimate with its interval.

    Attributes:
        x, y: where it is.
        low, high: the ends of its interval, in x for a row, in y for a defense; None without one.
        look: colour and marker of the attack.
        label: what it is.
        value: the estimate as text.
        about: all of it in words.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    look: Look
    label: str
    value: str
    about: str


@dataclass(frozen=True)
class IntervalChart:
    """A row for each attack, or defense: its advantage in one property.

    Attributes:
        name: the property.
        rows: from above.
        ticks, zero: of the axis across, and the position of no advantage.
        height: of the chart.
    """

    name: str
    rows: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    zero: float
    height: int


@dataclass(frozen=True)
class PlacedMark:
    """A defense in a chart: its mark, the ends of its cost's interval, and where its number is."""

    mark: Mark
    left: float | None
    right: float | None
    number_x: float
    number_y: float
    number: int
    recommended: bool


@dataclass(frozen=True)
class DefenseChart:
    """Leakage against utility cost for one property.

    Attributes:
        name: the property.
        marks: a defense each.
        xs, ys: ticks of the axes.
        zero: the position of no advantage, in y.
    """

    name: str
    marks: tuple[PlacedMark, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    zero: float


@dataclass(frozen=True)
class NumberedDefense:
    """A defense by its number in the charts.

    Attributes:
        outcome: of the verdict on it.
        recommended: whether it stops the attacks at a utility cost below that of all others.
        drawn: whether its utility cost is known, so that charts show it.
    """

    number: int
    label: str
    outcome: Outcome
    recommended: bool
    drawn: bool


def attack_charts(attacks: Sequence[AttackReport]) -> list[IntervalChart]:
    """Return a chart for each property: each attack's advantage over the best baseline."""
    looks = looks_of([a.name for a in attacks_run(attacks)])
    charts = []
    for name in _properties(attacks):
        rows = [
            (
                attack.advantage[name],
                looks[attack.name],
                attack.title,
                f"over {baseline.title}"
                if (baseline := baseline_of(attack, name, attacks))
                else "",
            )
            for attack in attacks_run(attacks)
            if _defined(attack.advantage.get(name))
        ]
        charts += _interval_chart(name, rows)
    return charts


def leakage_charts(defenses: Sequence[DefenseReport]) -> list[IntervalChart]:
    """Return a chart for each property: the strongest attack's advantage under each defense."""
    looks = _looks_under(defenses)
    charts = []
    for name in dict.fromkeys(n for d in defenses for n in _properties(d.attacks)):
        rows = [
            (attack.advantage[name], looks[attack.name], each.label, f"by {attack.title}")
            for each in defenses
            if (attack := _strongest(each, name)) is not None
        ]
        charts += _interval_chart(name, rows)
    return charts


def utility_charts(
    defenses: Sequence[DefenseReport], findings: Sequence[Finding]
) -> list[DefenseChart]:
    """Return a chart for each property: the strongest attack's advantage and the utility cost.

    Axes are the same in all. None is returned where no utility cost of a defense was measured.
    """
    looks, numbered = _looks_under(defenses), numbered_defenses(defenses, findings)
    points = [
        (name, each, attack, cost, of)
        for each, of in zip(defenses, numbered, strict=True)
        if _defined(cost := each.utility_cost)
        for name in _properties(each.attacks)
        if (attack := _strongest(each, name)) is not None
    ]
    if not any(each.name != "none" for _, each, *_ in points):
        return []
    across = Axis([end for *_, cost, _ in points for end in _ends(cost)], LEFT, WIDTH - EDGE)
    advantages = [end for name, _, a, *_ in points for end in _ends(a.advantage[name])]
    up = Axis(advantages, HEIGHT - BOTTOM, TOP)
    charts = []
    for name in dict.fromkeys(name for name, *_ in points):
        marks = [
            (_mark_of_defense(each, attack, name, looks[attack.name], across, up), cost, of)
            for subject, each, attack, cost, of in points
            if subject == name
        ]
        places = _places([(mark.x, mark.y) for mark, _, _ in marks], [of for *_, of in marks])
        placed = tuple(
            PlacedMark(mark, *_positions(cost, across), *place, of.number, of.recommended)
            for (mark, cost, of), place in zip(marks, places, strict=True)
        )
        charts.append(DefenseChart(name, placed, across.ticks(), up.ticks(), up.at(0.0)))
    return charts


def numbered_defenses(
    defenses: Sequence[DefenseReport], findings: Sequence[Finding]
) -> list[NumberedDefense]:
    """Return the defenses with their numbers in the charts, and which one is recommended."""
    cheapest = next(
        (f.cheapest for f in findings if isinstance(f, DefenseEffect) and f.cheapest), None
    )
    return [
        NumberedDefense(
            number,
            each.label,
            each.verdict.outcome,
            recommended=each.label == cheapest,
            drawn=_defined(each.utility_cost),
        )
        for number, each in enumerate(defenses, 1)
    ]


def looks_used(defenses: Sequence[DefenseReport]) -> dict[str, Look]:
    """Return the titles of the attacks that are the strongest under some defense → their looks."""
    looks = _looks_under(defenses)
    strongest = [
        attack
        for each in defenses
        for name in _properties(each.attacks)
        if (attack := _strongest(each, name)) is not None
    ]
    return {attack.title: looks[attack.name] for attack in strongest}


def _properties(attacks: Iterable[AttackReport]) -> list[str]:
    return list(dict.fromkeys(name for attack in attacks for name in attack.advantage))


def _looks_under(defenses: Sequence[DefenseReport]) -> dict[str, Look]:
    return looks_of(list(dict.fromkeys(a.name for d in defenses for a in attacks_run(d.attacks))))


def _strongest(defense: DefenseReport, name: str) -> AttackReport | None:
    """Return the attack with the greatest advantage in a property; None where none has one."""
    ran = [a for a in attacks_run(defense.attacks) if _defined(a.advantage.get(name))]
    return max(ran, key=lambda a: a.advantage[name].value or 0.0, default=None)


def _defined(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.value is not None


def _ends(estimate: Estimate | None) -> list[float]:
    """Return the numbers of an estimate that are to be shown, in points."""
    if estimate is None:
        return []
    numbers = (estimate.value, estimate.low, estimate.high)
    return [100 * number for number in numbers if number is not None]


def _positions(estimate: Estimate | None, axis: Axis) -> tuple[float | None, float | None]:
    """Return the ends of an interval on an axis."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None, None
    return axis.at(100 * estimate.low), axis.at(100 * estimate.high)


def _interval_chart(
    name: str, rows: Sequence[tuple[Estimate, Look, str, str]]
) -> list[IntervalChart]:
    """Return the chart of these rows; nothing where there are none."""
    if not rows:
        return []
    axis = Axis([end for each, *_ in rows for end in _ends(each)], EDGE, WIDTH - EDGE)
    marks = []
    for place, (advantage, look, label, more) in enumerate(rows):
        low, high = _positions(advantage, axis)
        value = percent(advantage, sign=True)
        short = label if len(label) <= LETTERS else label.replace(" = ", "=")
        marks.append(
            Mark(
                x=axis.at(100 * (advantage.value or 0.0)),
                y=ROW * place + 28,
                low=low,
                high=high,
                look=look,
                label=short if len(short) <= LETTERS else f"{short[: LETTERS - 1]}…",
                value=value,
                about=f"{label}, {name}: {value} points {more}".strip(),
            )
        )
    height = ROW * len(rows) + FOOT
    return [IntervalChart(name, tuple(marks), axis.ticks(), axis.at(0.0), height)]


def _mark_of_defense(
    defense: DefenseReport, attack: AttackReport, name: str, look: Look, across: Axis, up: Axis
) -> Mark:
    advantage, cost = attack.advantage[name], defense.utility_cost
    assert cost is not None
    low, high = _positions(advantage, up)
    value = percent(advantage, sign=True)
    return Mark(
        x=across.at(100 * (cost.value or 0.0)),
        y=up.at(100 * (advantage.value or 0.0)),
        low=low,
        high=high,
        look=look,
        label=defense.label,
        value=value,
        about=f"{defense.label}, {name}: advantage of {attack.title} {value} points, utility cost "
        f"{percent(cost, sign=True)} points",
    )


def _places(
    marks: Sequence[tuple[float, float]], defenses: Sequence[NumberedDefense]
) -> list[tuple[float, float]]:
    """Return where each defense's number is: beside its mark, on no other number or mark."""
    taken: list[tuple[float, float, float]] = [(x, y, 5.0) for x, y in marks]
    found = []
    for (x, y), each in zip(marks, defenses, strict=True):
        half = LETTER * len(str(each.number)) / 2
        free = 12 if each.recommended else 9
        beside = [
            (x + side * (free + half + step // 3 * 2 * half), y + rise * (7 + LINE * (step % 3)))
            for step in range(9)
            for side, rise in ((1, -1), (1, 1), (-1, -1), (-1, 1))
        ]
        inside = [
            (a, b)
            for a, b in beside
            if LEFT + half < a < WIDTH - half and TOP - 6 < b < HEIGHT - BOTTOM - 4
        ]
        place = next(
            (
                (a, b)
                for a, b in inside
                if all(abs(a - p) > half + r or abs(b - q) > LINE for p, q, r in taken)
            ),
            (inside or beside)[0],
        )
        taken.append((*place, half))
        found.append((round(place[0], 1), round(place[1], 1)))
    return found
