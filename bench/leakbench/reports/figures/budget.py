"""Accuracy against the budget of gradient evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import TICK, TITLE, blank_figure, legend_below, plain_axes
from leakbench.reports.figures.curves import (
    TASK,
    accuracy_range,
    defined,
    draw_curve,
    draw_level,
    shared_settings,
)
from leakbench.reports.figures.styles import Style, styles_of
from leakbench.reports.rows import LAYOUTS, settings_text, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "budget"'
EXAMPLE = '"attack.budget" = [100, 300] in its `sweep`'

PANELS_A_ROW, TICKS = 4, 6
"""At most."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each group that is laid out by budget; None where nothing is measured.

    A panel per property, and a row of panels for each combination of the other settings that the
    group sweeps.
    """
    groups: dict[str, list[Measured]] = {}
    for measured in cells:
        if measured.entry.layout == "budget":
            groups.setdefault(measured.entry.group, []).append(measured)
    return {
        f"budget-{number}" if len(groups) > 1 else "budget": _figure(group)
        if any(m.record and m.record.metrics for m in group)
        else None
        for number, group in enumerate(groups.values(), start=1)
    }


Panel = Mapping[str, Mapping[float, Estimate]]
"""Column → budget → balanced accuracy."""


def _figure(cells: Sequence[Measured]) -> Figure:
    panels = _panels(cells)
    properties = len({name for _, name in panels})
    columns = min(properties if properties > 1 else len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(2.5 * columns + 0.6, 5.0)
    figure = blank_figure(width, 2.6 * rows + 1.4)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    styles, fixed = styles_of(cells), _fixed(cells)
    budgets = sorted({float(m.entry.swept["budget"]) for m in cells})
    for ax, ((setting, name), panel) in zip(axes, panels.items(), strict=False):
        ax.set_title("\n".join(filter(None, (name, setting))), fontsize=9, parse_math=False)
        ax.set_xlabel("budget, gradient evaluations", fontsize=TICK)
        _draw_panel(ax, panel, styles, fixed, budgets)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    drawn = [(of.values(), styles[c]) for panel in panels.values() for c, of in panel.items()]
    axes[0].set_ylim(*accuracy_range(drawn))
    figure.suptitle(_title(cells, letters=int(12 * width)), fontsize=TITLE, parse_math=False)
    figure.supylabel(BALANCED_ACCURACY.heading, fontsize=9)
    legend_below(figure, styles, width)
    return figure


def _panels(cells: Sequence[Measured]) -> dict[tuple[str, str], dict[str, dict[float, Estimate]]]:
    """Return the panels by the settings that differ, and property."""
    varying = varying_settings([m.entry for m in cells], LAYOUTS["budget"])
    if len({m.entry.cell.main_task for m in cells}) > 1:
        varying = ["main_task", *varying]
    varying = ["B" if field == "batch_size" else field for field in varying]
    found: dict[tuple[str, str], dict[str, dict[float, Estimate]]] = {}
    for measured in cells:
        entry, record = measured.entry, measured.record
        for name in entry.cell.properties:
            setting = settings_text(measured, varying)
            panel = found.setdefault((setting, name), {}).setdefault(entry.column, {})
            if record is not None and record.metrics is not None:
                estimate = record.metrics.properties[name].balanced_accuracy
                if defined(estimate):
                    panel[float(entry.swept["budget"])] = estimate
    return found


def _fixed(cells: Sequence[Measured]) -> set[str]:
    """Return the columns that have one cell at several budgets, since they do not depend on it."""
    keys: dict[str, list[str]] = {}
    for m in cells:
        keys.setdefault(m.entry.column, []).append(m.entry.key)
    return {column for column, of in keys.items() if len(set(of)) < len(of)}


def _draw_panel(
    ax: Axes,
    panel: Panel,
    styles: Mapping[str, Style],
    fixed: set[str],
    budgets: Sequence[float],
) -> None:
    """Draw controls and fixed attacks as horizontal lines, and the others over budgets."""
    ax.set_xscale("log")
    ax.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    ticks = budgets[:: -ceil(len(budgets) / TICKS)][::-1]
    plain_axes(ax)
    ax.set_xticks(ticks, [_short(budget) for budget in ticks])
    ax.set_xticks([], minor=True)
    for column, by_budget in panel.items():
        style = styles[column]
        if by_budget and (style.control or column in fixed):
            draw_level(ax, next(iter(by_budget.values())), style, column)
        elif by_budget:
            draw_curve(ax, budgets, [by_budget.get(b) for b in budgets], style, column)


def _short(budget: float) -> str:
    """Return a number of evaluations as the short label of a tick.

    >>> _short(300), _short(4800), _short(24000)
    ('300', '4.8k', '24k')
    """
    return f"{budget:g}" if budget < 1000 else f"{budget / 1000:g}k"


def _title(cells: Sequence[Measured], letters: int) -> str:
    """Return the group's title and, below it, the settings that its cells share."""
    shared = shared_settings(cells, {**TASK, "B = ": "B"})
    below = f"{shared}; bands: 95 % intervals of attacks"
    return f"{fill(cells[0].entry.group, letters)}\n{fill(below, letters)}"
