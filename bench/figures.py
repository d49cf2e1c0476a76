"""Figures of accuracy by budget, from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from bench.cache import replacing
from bench.metrics import Estimate
from bench.registry import ATTACKS
from bench.rows import LAYOUTS, Measured, leading_values, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B")
"""Of attacks: Okabe and Ito's, which the colour-blind tell apart, without yellow and black."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

SHADE, EDGE = 0.1, 0.45
"""Opacity of the bands, through which all others show."""

GREY = "#444444"

DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "dotted",
    "dashed",
    "dashdot",
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
"""Of controls, which are grey."""

PANELS_A_ROW, TICKS = 4, 6
"""At most."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def budget_figures(cells: Sequence[Measured]) -> list[Figure | None]:
    """Return a figure for each group that is laid out by budget; None where nothing is measured.

    A panel a property, and a row of panels for each combination of the other settings that the
    group sweeps.
    """
    groups: dict[str, list[Measured]] = {}
    for measured in cells:
        if measured.planned.layout == "budget":
            groups.setdefault(measured.planned.group, []).append(measured)
    return [
        _budget_figure(group) if any(m.record and m.record.metrics for m in group) else None
        for group in groups.values()
    ]


Panel = Mapping[str, Mapping[float, Estimate]]
"""Column → budget → balanced accuracy."""


def _budget_figure(cells: Sequence[Measured]) -> Figure:
    panels = _panels(cells)
    properties = len({name for _, name in panels})
    columns = min(properties if properties > 1 else len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(2.5 * columns + 0.6, 5.0)
    figure = _blank_figure(width, 2.6 * rows + 1.4)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    styles = _styles(cells)
    budgets = sorted({float(m.planned.swept["budget"]) for m in cells})
    for ax, ((setting, name), panel) in zip(axes, panels.items(), strict=False):
        ax.set_title("\n".join(filter(None, (name, setting))), fontsize=9, parse_math=False)
        ax.set_xlabel("budget, gradient evaluations", fontsize=8)
        _draw_panel(ax, panel, styles, budgets)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    axes[0].set_ylim(*_accuracy_range(panels.values(), styles))
    figure.suptitle(_title(cells, letters=int(12 * width)), fontsize=10, parse_math=False)
    figure.supylabel("balanced accuracy, %", fontsize=9)
    handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    ordered = [handles[column] for column in styles if column in handles]
    figure.legend(
        handles=ordered,
        loc="outside lower center",
        ncols=min(len(ordered), int(width / 1.25)),
        frameon=False,
        fontsize=9,
    )
    return figure


def _blank_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that is drawn by Agg, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(cells: Sequence[Measured]) -> dict[tuple[str, str], dict[str, dict[float, Estimate]]]:
    """Return what to draw by settings and property, those settings said that differ."""
    varying = varying_settings([m.planned for m in cells], LAYOUTS["budget"])
    if len({m.planned.cell.main_task for m in cells}) > 1:
        varying = ["main_task", *varying]
    varying = ["B" if field == "batch_size" else field for field in varying]
    found: dict[tuple[str, str], dict[str, dict[float, Estimate]]] = {}
    for measured in cells:
        planned, record = measured.planned, measured.record
        for name in planned.cell.properties:
            values = leading_values(measured, name, varying)
            setting = ", ".join(f"{k} = {v}" for k, v in zip(varying, values, strict=True))
            panel = found.setdefault((setting, name), {}).setdefault(planned.column, {})
            if record is not None and record.metrics is not None:
                estimate = record.metrics.properties[name].balanced_accuracy
                if None not in (estimate.value, estimate.low, estimate.high):
                    panel[float(planned.swept["budget"])] = estimate
    return found


@dataclass(frozen=True)
class _Style:
    """How a column is drawn: one that does not depend on the budget as a level."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]
    level: bool
    control: bool


def _styles(cells: Sequence[Measured]) -> dict[str, _Style]:
    colours, markers, dashes = cycle(COLOURS), cycle(MARKERS), cycle(DASHES)
    styles = {}
    for column in dict.fromkeys(m.planned.column for m in cells):
        planned = [m.planned for m in cells if m.planned.column == column]
        if ATTACKS.get(planned[0].cell.attack).control:
            styles[column] = _Style(GREY, "", next(dashes), level=True, control=True)
        else:
            # A cell that stands at several budgets does not depend on them.
            level = len({each.key for each in planned}) < len(planned)
            styles[column] = _Style(next(colours), next(markers), "solid", level, control=False)
    return styles


def _draw_panel(
    ax: Axes, panel: Panel, styles: Mapping[str, _Style], budgets: Sequence[float]
) -> None:
    """Draw levels as horizontal lines, and the others over budgets, each with its interval."""
    ax.set_xscale("log")
    ax.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    ticks = budgets[:: -ceil(len(budgets) / TICKS)][::-1]
    ax.set_xticks(ticks, [_short(budget) for budget in ticks], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for column, by_budget in panel.items():
        style = styles[column]
        if not by_budget:
            continue
        # A line breaks where a budget has not been measured.
        x = list(by_budget) if style.level else budgets
        values, low, high = (
            np.array([100 * getattr(by_budget[b], part) if b in by_budget else np.nan for b in x])
            for part in ("value", "low", "high")
        )
        if style.level:
            ax.axhline(
                values[0],
                color=style.colour,
                linestyle=style.dashes,
                linewidth=1.3,
                zorder=1.5,
                label=column,
            )
            if not style.control:
                ax.axhspan(low[0], high[0], color=style.colour, alpha=SHADE, linewidth=0)
            continue
        shade, edge = (style.colour, SHADE), (style.colour, EDGE)
        ax.fill_between(x, low, high, facecolor=shade, edgecolor=edge, linewidth=0.7)
        ax.plot(x, values, color=style.colour, marker=style.marker, markersize=4.5, label=column)
        if len(x) == 1:
            ax.vlines(x, low, high, color=style.colour, alpha=EDGE)


def _short(budget: float) -> str:
    """Return a number of evaluations as short as a tick needs it.

    >>> _short(300), _short(4800), _short(24000)
    ('300', '4.8k', '24k')
    """
    return f"{budget:g}" if budget < 1000 else f"{budget / 1000:g}k"


def _accuracy_range(panels: Iterable[Panel], styles: Mapping[str, _Style]) -> tuple[float, float]:
    """Return the least and the greatest percentage that is drawn, chance included."""
    reached = [0.5]
    for panel in panels:
        for column, by_budget in panel.items():
            parts = ("value",) if styles[column].control else ("low", "high")
            reached += [getattr(each, part) for each in by_budget.values() for part in parts]
    return max(100 * min(reached) - 3, 0.0), min(100 * max(reached) + 3, 101.0)


def _title(cells: Sequence[Measured], letters: int) -> str:
    """Return the group's title and, below it, of what its cells share."""
    rows = {
        leading_values(m, name, ("data set", "main task", "B"))
        for m in cells
        if m.record and m.record.metrics
        for name in m.planned.cell.properties
    }
    shared = [
        f"{prefix}{next(iter(values))}"
        for prefix, values in zip(
            ("", "main task ", "B = "), map(set, zip(*rows, strict=True)), strict=True
        )
        if len(values) == 1
    ]
    below = f"{', '.join(shared)}; bands: 95 % intervals of attacks, by victim batch"
    return f"{fill(cells[0].planned.group, letters)}\n{fill(below, letters)}"
