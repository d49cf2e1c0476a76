"""Curves with intervals: accuracy of attacks and controls over a swept setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.figures.styles import Style
from leakbench.reports.rows import leading_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHADE, EDGE = 0.1, 0.45
"""Opacity of the bands, which overlap."""


def defined(estimate: Estimate) -> bool:
    """Whether an estimate has a value; it may be one without an interval."""
    return estimate.value is not None


PERCENT = 100.0


def draw_level(
    ax: Axes, estimate: Estimate, style: Style, label: str, scale: float = PERCENT
) -> None:
    """Draw a horizontal line, of an attack with its interval if it has one."""
    value, low, high = scaled([estimate], scale)
    ax.axhline(
        value[0],
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.3,
        zorder=1.5,
        label=label,
    )
    if not style.control and np.isfinite([low[0], high[0]]).all():
        ax.axhspan(low[0], high[0], color=style.colour, alpha=SHADE, linewidth=0)


def draw_curve(
    ax: Axes,
    x: Sequence[float],
    estimates: Sequence[Estimate | None],
    style: Style,
    label: str,
    scale: float = PERCENT,
) -> None:
    """Draw a line, of an attack with its band; they break where there is no value, or interval."""
    value, low, high = scaled(estimates, scale)
    if style.control:
        # A single point is visible only with a marker.
        mark = "x" if len(x) == 1 else ""
        (line,) = ax.plot(x, value, linestyle=style.dashes, linewidth=1.3, marker=mark, label=label)
        line.set_color(style.colour)
        return
    shade, edge = (style.colour, SHADE), (style.colour, EDGE)
    ax.fill_between(x, low, high, facecolor=shade, edgecolor=edge, linewidth=0.7)
    ax.plot(x, value, color=style.colour, marker=style.marker, markersize=4.5, label=label)
    if len(x) == 1:
        ax.vlines(x, low, high, color=style.colour, alpha=EDGE)


def accuracy_range(
    curves: Iterable[tuple[Iterable[Estimate], Style]],
) -> tuple[float, float]:
    """Return the least and the greatest percentage that is drawn, chance included."""
    reached = [0.5]
    for estimates, style in curves:
        parts = ("value",) if style.control else ("value", "low", "high")
        ends = [getattr(each, part) for each in estimates for part in parts]
        reached += [end for end in ends if end is not None]
    return max(100 * min(reached) - 3, 0.0), min(100 * max(reached) + 3, 101.0)


TASK: Mapping[str, str] = {"": "data set", "main task ": "main task"}
"""Settings in a title where all cells share them: prefix → leading column."""


def shared_settings(cells: Iterable[Measured], columns: Mapping[str, str] = TASK) -> str:
    """Return the settings that all measured cells share, for a title.

    Args:
        columns: prefix → leading column.
    """
    measured = [m for m in cells if m.record and m.record.metrics]
    found = {leading_values(m, "", tuple(columns.values())) for m in measured}
    by_column = [set(values) for values in zip(*found, strict=True)]
    return ", ".join(
        f"{prefix}{next(iter(values))}"
        for prefix, values in zip(columns, by_column, strict=False)
        if len(values) == 1
    )


def scaled(estimates: Sequence[Estimate | None], scale: float = PERCENT) -> list[np.ndarray]:
    """Return values and the ends of their intervals, NaN where there are none."""
    parts = [
        [None if each is None else getattr(each, part) for each in estimates]
        for part in ("value", "low", "high")
    ]
    return [scale * np.array([np.nan if x is None else x for x in of], float) for of in parts]
