"""A logarithmic axis of levels, with 0 and the undefended case beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from leakbench.metrics.estimates import Estimate
from leakbench.reports.figures.curves import PERCENT, draw_curve
from leakbench.reports.figures.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Level = float | None
"""A level of the swept parameter; None where it does not apply, as without a defense."""

ASIDE = 0.09
"""Steps between two curves that are drawn side by side."""


@dataclass(frozen=True)
class LevelAxis:
    """The positions of levels.

    Attributes:
        positions: level → position on a logarithmic axis, from left to right.
        pieces: the levels between which lines are drawn; 0 and None are not connected.
        step: usual ratio of neighbouring positions.
    """

    positions: Mapping[Level, float]
    pieces: Sequence[Sequence[Level]]
    step: float


def level_axis(levels: Iterable[Level], undefended_left: bool = True) -> LevelAxis:
    """Return an axis of these levels, none of which is negative.

    Args:
        undefended_left: whether None is at the left end.

    >>> level_axis([0.1, 0.0, None, 0.01]).positions
    {None: 0.0001, 0.0: 0.001, 0.01: 0.01, 0.1: 0.1}
    >>> level_axis([1.0, None, 0.1], undefended_left=False).pieces
    [[0.1, 1.0], [None]]
    """
    known = set(levels)
    positive = sorted(level for level in known if level)
    first, last = (positive[0], positive[-1]) if positive else (1.0, 1.0)
    step = (last / first) ** (1 / (len(positive) - 1)) if len(positive) > 1 else 10.0
    places: list[tuple[Level, float]] = [(level, level) for level in positive]
    pieces: list[list[Level]] = [list(positive)] if positive else []
    if 0 in known:
        places.insert(0, (0.0, _rounded(first / step)))
        pieces.insert(0, [0.0])
    if None in known and undefended_left:
        places.insert(0, (None, _rounded(places[0][1] / step if places else 1.0)))
        pieces.insert(0, [None])
    elif None in known:
        places.append((None, _rounded(last * step)))
        pieces.append([None])
    return LevelAxis(dict(places), pieces, step)


def set_level_axis(ax: Axes, axis: LevelAxis, labels: Mapping[Level, str]) -> None:
    """Give a panel the axis, with a label at each level."""
    places = list(axis.positions.values())
    margin = axis.step**0.35
    ax.set_xscale("log")
    ax.set_xlim(places[0] / margin, places[-1] * margin)
    ax.set_xticks(places, [labels[level] for level in axis.positions])
    ax.set_xticks([], minor=True)


def draw_over_levels(
    ax: Axes,
    axis: LevelAxis,
    by_level: Mapping[Level, Estimate],
    style: Style,
    label: str,
    shift: float = 0.0,
    scale: float = PERCENT,
) -> None:
    """Draw a curve over levels, 0 and None unconnected.

    Args:
        shift: in steps, of unconnected levels, so that curves do not cover each other there.
    """
    for piece in axis.pieces:
        if any(level in by_level for level in piece):
            aside = axis.step**shift if len(piece) == 1 else 1.0
            x = [axis.positions[level] * aside for level in piece]
            draw_curve(ax, x, [by_level.get(level) for level in piece], style, label, scale)


def shifts(styles: Mapping[str, Style]) -> dict[str, float]:
    """Return each curve's shift, so that all are side by side around their level."""
    curves = [label for label, style in styles.items() if not style.control]
    return {c: ASIDE * (i - (len(curves) - 1) / 2) for i, c in enumerate(curves)}


def short(level: Level) -> str:
    """Return a level as the short label of a tick.

    >>> short(None), short(0.0), short(0.05), short(8.0), short(0.0001)
    ('none', '0', '0.05', '8', '10⁻⁴')
    """
    if level is None:
        return "none"
    exponent = log10(level) if level > 0 else 0.0
    if abs(exponent) > 2 and exponent.is_integer():
        return "10" + f"{exponent:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{level:g}"


def _rounded(place: float) -> float:
    """Return a position without the last digits, which differ between machines."""
    return float(f"{place:.6g}")
