"""Accuracy and feature cosine against λ, by batch size: what g_n is worth beside g_c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from bench.figures.canvas import (
    COLOURS,
    DASHES,
    GREY,
    LABEL,
    MARKERS,
    TICK,
    TITLE,
    blank_figure,
    legend_below,
    plain_axes,
)
from bench.figures.curves import (
    PERCENT,
    Style,
    accuracy_range,
    defined,
    draw_level,
    shared_settings,
)
from bench.figures.levels import (
    Level,
    draw_over_levels,
    level_axis,
    set_level_axis,
    shifts,
    short,
)
from bench.metrics import Estimate
from bench.registry import ATTACKS
from bench.rows import Measured, leading_values, varying_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWEPT = "lam"

NEEDS = f'group that sweeps "attack.{SWEPT}"'
EXAMPLE = f'"attack.{SWEPT}" = [0, 0.1, 1] in its `sweep`'

COSINE = "feature cosine"

PANELS_A_ROW = 3

Panels = dict[str, dict[str, dict[Level, Estimate]]]
"""Property or `COSINE` → line → λ → estimate."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each column that sweeps λ, in each group; None if it is not measured.

    A panel a property and one for the features' cosine; a line for each batch size, beside it the
    group's controls.
    """
    swept = dict.fromkeys(
        (m.planned.group, m.planned.column)
        for m in cells
        if SWEPT in m.planned.swept and SWEPT in m.planned.cell.attack_parameters
    )
    found: dict[str, Figure | None] = {}
    for number, (group, column) in enumerate(swept, start=1):
        of_group = [m for m in cells if m.planned.group == group]
        drawn = [m for m in of_group if m.planned.column == column or _is_control(m)]
        measured = any(m.record and m.record.metrics for m in drawn if not _is_control(m))
        stem = f"ablation-{number}" if len(swept) > 1 else "ablation"
        found[stem] = _figure(drawn, column) if measured else None
    return found


def _is_control(measured: Measured) -> bool:
    return bool(ATTACKS.get(measured.planned.cell.attack).control)


def _figure(cells: Sequence[Measured], column: str) -> Figure:
    panels, styles = _panels(cells)
    axis = level_axis(
        {level for of in panels.values() for by in of.values() for level in by} - {None}
    )
    columns = min(len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(2.5 * columns + 0.6, 5.0)
    figure = blank_figure(width, 2.5 * rows + 1.6)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    drawn = [
        (by.values(), styles[line])
        for name, of in panels.items()
        if name != COSINE
        for line, by in of.items()
    ]
    labels = {level: short(level) for level in axis.positions}
    for ax, (name, by_line) in zip(axes, panels.items(), strict=False):
        plain_axes(ax)
        set_level_axis(ax, axis, labels)
        ax.set_title(name, fontsize=LABEL, parse_math=False)
        ax.set_xlabel("λ (0: without g_n)", fontsize=TICK, parse_math=False)
        ax.set_ylabel(
            "cosine" if name == COSINE else "balanced accuracy, %",
            fontsize=TICK,
        )
        scale = 1.0 if name == COSINE else PERCENT
        for line, by_level in by_line.items():
            if None in by_level:
                draw_level(ax, by_level[None], styles[line], line, scale)
            else:
                shift = shifts(styles)[line]
                draw_over_levels(ax, axis, by_level, styles[line], line, shift, scale)
        if name != COSINE:
            ax.set_ylim(*accuracy_range(drawn))
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(_title(cells, column, int(12 * width)), fontsize=TITLE, parse_math=False)
    legend_below(figure, styles, width)
    return figure


def _panels(cells: Sequence[Measured]) -> tuple[Panels, dict[str, Style]]:
    """Return what to draw, and each line's style.

    A batch size's attack and controls share its colour; a control that is the same at all of them
    is drawn once, in grey. Controls do not depend on λ and stand at None.
    """
    varying = varying_settings([m.planned for m in cells], ("property", SWEPT))
    fields = ["B" if v == "batch_size" else v for v in varying]
    panels: Panels = {}
    lines: dict[str, tuple[str, str | None]] = {}
    for m in cells:
        metrics = m.record.metrics if m.record else None
        if metrics is None:
            continue
        values = leading_values(m, "", fields)
        setting = ", ".join(f"{k} = {v}" for k, v in zip(fields, values, strict=True))
        control = m.planned.column if _is_control(m) else None
        line = ", ".join(filter(None, (control, setting))) or m.planned.column
        lines.setdefault(line, (setting, control))
        level = None if control else float(m.planned.swept[SWEPT])
        estimates = {n: of.balanced_accuracy for n, of in metrics.properties.items()}
        if metrics.feature_cosine is not None:
            estimates[COSINE] = metrics.feature_cosine
        for name, estimate in estimates.items():
            if defined(estimate):
                panels.setdefault(name, {}).setdefault(line, {})[level] = estimate
    panels = {n: of for n, of in panels.items() if n != COSINE} | (
        {COSINE: panels[COSINE]} if COSINE in panels else {}
    )
    return _controls_once(panels, lines)


def _controls_once(
    panels: Panels, lines: Mapping[str, tuple[str, str | None]]
) -> tuple[Panels, dict[str, Style]]:
    """Return panels with one line for each control that is the same everywhere, and styles."""
    same = {
        control
        for control in {control for _, control in lines.values() if control}
        if all(
            len({by[None].value for line, by in of.items() if lines[line][1] == control}) <= 1
            for of in panels.values()
        )
    }
    settings = list(dict.fromkeys(setting for setting, _ in lines.values()))
    colours = dict(zip(settings, cycle(COLOURS), strict=False))
    markers = dict(zip(settings, cycle(MARKERS), strict=False))
    controls = list(dict.fromkeys(control for _, control in lines.values() if control))
    dashes = dict(zip(controls, cycle(DASHES), strict=False))
    styles: dict[str, Style] = {}
    names: dict[str, str] = {}
    order = [None, *controls]
    for line, (setting, control) in sorted(lines.items(), key=lambda each: order.index(each[1][1])):
        names[line] = control if control in same and control else line
        if control is None:
            styles[line] = Style(colours[setting], markers[setting], "solid", control=False)
        else:
            colour = GREY if control in same else colours[setting]
            styles[names[line]] = Style(colour, "", dashes[control], control=True)
    renamed = {name: {names[line]: by for line, by in of.items()} for name, of in panels.items()}
    return renamed, styles


def _title(cells: Sequence[Measured], column: str, letters: int) -> str:
    """Return the group's title and, below it, of what its cells share."""
    leading = {"": "data set", "main task ": "main task", "B = ": "B"}
    rows = [
        dict(zip(leading, leading_values(m, "", tuple(leading.values())), strict=True))
        for m in cells
        if m.record and m.record.metrics
    ]
    below = f"{column}; {shared_settings(rows)}; bands: 95 % intervals by victim batch"
    return f"{fill(cells[0].planned.group, letters)}\n{fill(below, letters)}"
