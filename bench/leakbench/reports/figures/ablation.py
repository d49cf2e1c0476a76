"""Accuracy and feature cosine against λ, by batch size: the contribution of g_n beside g_c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_attacks import FEATURE_COSINE, SWAPPED_COSINE
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import (
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
from leakbench.reports.figures.curves import (
    PERCENT,
    TASK,
    accuracy_range,
    defined,
    draw_level,
    shared_settings,
)
from leakbench.reports.figures.levels import (
    Level,
    LevelAxis,
    draw_over_levels,
    level_axis,
    set_level_axis,
    shifts,
    short,
)
from leakbench.reports.figures.styles import Style
from leakbench.reports.rows import settings_text, varying_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWEPT = "lam"

NEEDS = f'group that sweeps "attack.{SWEPT}"'
EXAMPLE = f'"attack.{SWEPT}" = [0, 0.1, 1] in its `sweep`'

COSINE = FEATURE_COSINE.title
SWAPPED = SWAPPED_COSINE.title

PANELS_A_ROW = 3


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        setting: in which it differs from others of its column: the batch size, and others.
        control: the control that it shows; None if it shows the attack.
        is_swapped: whether it shows the cosine of the attack's answers for other batches.
    """

    setting: str
    control: str | None
    is_swapped: bool = False


Panels = Mapping[str, Mapping[Line, Mapping[Level, Estimate]]]
"""Property or `COSINE` → line → λ → estimate; controls do not depend on λ and are at None."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each column that sweeps λ, in each group; None if it is not measured.

    A panel per property and one for the cosine of features; a line for each batch size, beside it
    the group's controls and, in the panel of cosines, the attack's own swapped cosine.
    """
    swept = dict.fromkeys(
        (m.entry.group, m.entry.column)
        for m in cells
        if SWEPT in m.entry.swept and SWEPT in m.entry.cell.attack_parameters
    )
    found: dict[str, Figure | None] = {}
    for number, (group, column) in enumerate(swept, start=1):
        of_group = [m for m in cells if m.entry.group == group]
        drawn = [m for m in of_group if m.entry.column == column or _is_control(m)]
        stem = f"ablation-{number}" if len(swept) > 1 else "ablation"
        panels = _panels(drawn)
        levels = {level for of in panels.values() for by in of.values() for level in by} - {None}
        found[stem] = _figure(drawn, column, panels, level_axis(levels)) if levels else None
    return found


def _is_control(measured: Measured) -> bool:
    return bool(ATTACKS.get(measured.entry.cell.attack).control)


def _figure(cells: Sequence[Measured], column: str, panels: Panels, axis: LevelAxis) -> Figure:
    labels = _labels(panels, column)
    styles = _styles(labels)
    columns = min(len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(2.5 * columns + 0.6, 5.0)
    figure = blank_figure(width, 2.5 * rows + 1.6)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    drawn = [
        (by.values(), styles[labels[line]])
        for name, of in panels.items()
        if name != COSINE
        for line, by in of.items()
    ]
    for ax, (name, by_line) in zip(axes, panels.items(), strict=False):
        plain_axes(ax)
        set_level_axis(ax, axis, {level: short(level) for level in axis.positions})
        ax.set_title(name, fontsize=LABEL, parse_math=False)
        ax.set_xlabel("λ (0: without g_n)", fontsize=TICK, parse_math=False)
        ax.set_ylabel(
            "cosine" if name == COSINE else BALANCED_ACCURACY.heading,
            fontsize=TICK,
        )
        scale = 1.0 if name == COSINE else PERCENT
        # A line that is equal in all settings is drawn once.
        for label, line in {labels[line]: line for line in by_line}.items():
            by_level = by_line[line]
            if line.control:
                draw_level(ax, by_level[None], styles[label], label, scale)
            else:
                shift = shifts(styles).get(label, 0.0)
                draw_over_levels(ax, axis, by_level, styles[label], label, shift, scale)
        if name != COSINE:
            ax.set_ylim(*accuracy_range(drawn))
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(_title(cells, column, int(12 * width)), fontsize=TITLE, parse_math=False)
    legend_below(figure, styles, width)
    return figure


def _panels(cells: Sequence[Measured]) -> Panels:
    """Return the panels, the cosine of features last."""
    varying = varying_settings([m.entry for m in cells], ("property", SWEPT))
    fields = ["B" if field == "batch_size" else field for field in varying]
    panels: dict[str, dict[Line, dict[Level, Estimate]]] = {}
    cosines: dict[Line, dict[Level, Estimate]] = {}
    for m in cells:
        metrics = m.record.metrics if m.record else None
        if metrics is None:
            continue
        line = Line(settings_text(m, fields), m.entry.column if _is_control(m) else None)
        level = None if line.control else float(m.entry.swept[SWEPT])
        for name, of in metrics.properties.items():
            if defined(of.balanced_accuracy):
                panels.setdefault(name, {}).setdefault(line, {})[level] = of.balanced_accuracy
        if metrics.feature_cosine is not None and defined(metrics.feature_cosine):
            cosines.setdefault(line, {})[level] = metrics.feature_cosine
            swapped = metrics.swapped_cosine
            if line.control is None and swapped is not None and defined(swapped):
                cosines.setdefault(replace(line, is_swapped=True), {})[level] = swapped
    return panels | ({COSINE: cosines} if cosines else {})


def _labels(panels: Panels, column: str) -> dict[Line, str]:
    """Return the lines' labels, attacks first; a control that is equal in all has one label."""
    lines = list(dict.fromkeys(line for of in panels.values() for line in of))
    controls = list(dict.fromkeys(line.control for line in lines if line.control))

    def is_same(control: str) -> bool:
        values = [
            {by[None].value for line, by in of.items() if line.control == control}
            for of in panels.values()
        ]
        return all(len(of_panel) <= 1 for of_panel in values)

    same = {control for control in controls if is_same(control)}
    order: list[str | None] = [None, *controls]

    def label(line: Line) -> str:
        if line.control and line.control in same:
            return line.control
        of = ", ".join(filter(None, (line.control, line.setting))) or column
        return f"{of}, {SWAPPED}" if line.is_swapped else of

    ordered = sorted(lines, key=lambda each: (order.index(each.control), each.is_swapped))
    return {line: label(line) for line in ordered}


def _styles(labels: Mapping[Line, str]) -> dict[str, Style]:
    """Return each label's style: controls have their batch size's colour, or grey for all."""
    settings = list(dict.fromkeys(line.setting for line in labels))
    colours = dict(zip(settings, cycle(COLOURS), strict=False))
    markers = dict(zip(settings, cycle(MARKERS), strict=False))
    controls = list(dict.fromkeys(line.control for line in labels if line.control))
    dashes = dict(zip(controls, cycle(DASHES), strict=False))
    styles: dict[str, Style] = {}
    for line, label in labels.items():
        if line.control is None:
            colour, marker = colours[line.setting], markers[line.setting]
            # Plain, without a band: what the cosine compares with. Dashes are controls.
            styles[label] = (
                Style(colour, "", "solid", control=True)
                if line.is_swapped
                else Style(colour, marker, "solid", control=False)
            )
        else:
            colour = GREY if label == line.control else colours[line.setting]
            styles[label] = Style(colour, "", dashes[line.control], control=True)
    return styles


def _title(cells: Sequence[Measured], column: str, letters: int) -> str:
    """Return the group's title and, below it, the settings that its cells share."""
    shared = shared_settings(cells, {**TASK, "B = ": "B"})
    below = f"{column}; {shared}; bands: 95 % intervals"
    return f"{fill(cells[0].entry.group, letters)}\n{fill(below, letters)}"
