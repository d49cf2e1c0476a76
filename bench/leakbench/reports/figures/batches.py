"""Accuracy against the batch size, between the best baseline and the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import (
    GREY,
    LABEL,
    TICK,
    TITLE,
    blank_figure,
    plain_axes,
)
from leakbench.reports.figures.curves import (
    PERCENT,
    TASK,
    accuracy_range,
    defined,
    scaled,
    shared_settings,
)
from leakbench.reports.figures.demixing_limit import LIMIT, demixing_limit
from leakbench.reports.figures.end_labels import EndLabel, label_ends
from leakbench.reports.figures.styles import Style, styles_of
from leakbench.reports.rows import LAYOUTS, settings_text, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "table2" that sweeps the batch size'
EXAMPLE = "batch_size = [1, 8] in its `sweep`"

PANELS_A_ROW = 2
"""At most; each has its lines' labels beside it."""

ASIDE = 0.07
"""Doublings of the batch size between the points of two attacks that are drawn side by side."""

MARGIN = 0.06
"""Of a panel at the left and right of what is drawn, in widths of that."""

FARTHEST = 4
"""Times the largest batch size, up to which the limit of mask demixing is drawn."""

BASELINE, ORACLE = "best baseline", "oracle"

BySize = Mapping[int, Estimate]
"""Batch size → balanced accuracy."""


@dataclass
class Panel:
    """What is measured of a property: column → batch size → balanced accuracy.

    Attributes:
        attacks: of the attacks, in the columns' order.
        baselines, bounds: of the controls below and above them.
    """

    attacks: dict[str, dict[int, Estimate]] = field(default_factory=dict)
    baselines: dict[str, dict[int, Estimate]] = field(default_factory=dict)
    bounds: dict[str, dict[int, Estimate]] = field(default_factory=dict)

    def add(self, measured: Measured, estimate: Estimate) -> None:
        """Add what a cell has of the property."""
        cell, column = measured.entry.cell, measured.entry.column
        kinds = {"baseline": self.baselines, "upper bound": self.bounds, None: self.attacks}
        by_size = kinds[ATTACKS.get(cell.attack).control].setdefault(column, {})
        by_size[cell.batch_size] = estimate


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure of the first group by batch size that has records, None if none has.

    Groups of one title are one table, and one figure. A panel for each property, and for each
    combination of the other settings that the group sweeps.
    """
    groups: dict[str, list[Measured]] = {}
    for measured in cells:
        if measured.entry.layout == "table2":
            groups.setdefault(measured.entry.group, []).append(measured)
    drawable = [
        group for group in groups.values() if len({m.entry.cell.batch_size for m in group}) > 1
    ]
    panels_of_groups = ((group, _panels(group)) for group in drawable)
    drawn = (_figure(group, panels) for group, panels in panels_of_groups if panels)
    return {"batches": next(drawn, None)} if drawable else {}


def _panels(cells: Sequence[Measured]) -> dict[str, Panel]:
    """Return the panels that have a number, by title."""
    varying = varying_settings([m.entry for m in cells], LAYOUTS["table2"])
    if len({m.entry.cell.main_task for m in cells}) > 1:
        varying = ["main_task", *varying]
    found: dict[str, Panel] = {}
    for measured in cells:
        metrics = measured.record.metrics if measured.record else None
        for name, of_property in (metrics.properties if metrics else {}).items():
            title = ", ".join(filter(None, (name, settings_text(measured, varying))))
            if defined(of_property.balanced_accuracy):
                found.setdefault(title, Panel()).add(measured, of_property.balanced_accuracy)
    return found


def _figure(cells: Sequence[Measured], panels: Mapping[str, Panel]) -> Figure:
    columns = min(len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(4.0 * columns, 5.0)
    figure = blank_figure(width, 2.7 * rows + 0.9)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    styles = styles_of(cells)
    sizes = sorted({m.entry.cell.batch_size for m in cells})
    limit = demixing_limit(cells)
    if limit is not None and not sizes[0] <= limit <= FARTHEST * sizes[-1]:
        limit = None
    ends = {}
    for ax, (title, panel) in zip(axes, panels.items(), strict=False):
        ax.set_title(title, fontsize=LABEL, parse_math=False)
        ends[ax] = _draw_panel(ax, panel, styles, sizes)
        if limit is not None:
            _draw_limit(ax, limit, sizes)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    drawn = [
        (of.values(), styles[column])
        for panel in panels.values()
        for by_column in (panel.attacks, panel.bounds, panel.baselines)
        for column, of in by_column.items()
    ]
    axes[0].set_ylim(*accuracy_range(drawn))
    title = _title(cells, limit, letters=int(13 * width))
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    figure.supylabel(BALANCED_ACCURACY.heading, fontsize=LABEL)
    figure.supxlabel("individuals in the batch, B", fontsize=LABEL)
    label_ends(figure, ends, TICK)
    return figure


def _draw_panel(
    ax: Axes, panel: Panel, styles: Mapping[str, Style], sizes: Sequence[int]
) -> list[EndLabel]:
    """Draw a line for each attack and the band of the controls; return the lines' labels."""
    plain_axes(ax)
    ax.set_xticks([log2(size) for size in sizes], [str(size) for size in sizes])
    margin = MARGIN * (log2(sizes[-1]) - log2(sizes[0]))
    ax.set_xlim(log2(sizes[0]) - margin, log2(sizes[-1]) + margin)
    labels = _draw_band(ax, panel, sizes)
    for number, (column, by_size) in enumerate(panel.attacks.items()):
        style = styles[column]
        shift = ASIDE * (number - (len(panel.attacks) - 1) / 2)
        found = sorted(by_size)
        x = [log2(size) + shift for size in found]
        value, low, high = scaled([by_size[size] for size in found])
        ax.vlines(x, low, high, color=style.colour, alpha=0.6, linewidth=1.2)
        (line,) = ax.plot(x, value, marker=style.marker, markersize=5, label=column, zorder=3)
        line.set_color(style.colour)
        labels.append(EndLabel(column, x[-1], value[-1], style.colour))
    return labels


def _draw_limit(ax: Axes, limit: float, sizes: Sequence[int]) -> None:
    """Draw the batch size up to which mask demixing finds individuals, the axis reaching there."""
    ax.axvline(log2(limit), color=GREY, linewidth=1, dashes=(6, 3), zorder=1)
    low, high = ax.get_xlim()
    ax.set_xlim(low, max(high, log2(limit) + MARGIN * (log2(limit) - low)))
    if limit not in sizes:
        ticks = sorted([*sizes, limit])
        ax.set_xticks([log2(size) for size in ticks], [f"{size:g}" for size in ticks])


def _draw_band(ax: Axes, panel: Panel, sizes: Sequence[int]) -> list[EndLabel]:
    """Shade what lies between the best baseline and the oracle; return their labels."""
    below = _best(panel.baselines, sizes)
    above = _best(panel.bounds, sizes)
    x = np.array([log2(size) for size in sizes])
    ax.fill_between(
        x, below, above, where=above >= below, interpolate=True, color="0.88", linewidth=0, zorder=1
    )
    labels = []
    for text, values, dashes in ((BASELINE, below, "dashed"), (ORACLE, above, "dotted")):
        known = np.isfinite(values)
        if known.any():
            ax.plot(
                x[known], values[known], color=GREY, linestyle=dashes, linewidth=1.3, label=text
            )
            labels.append(EndLabel(text, x[known][-1], values[known][-1], GREY))
    return labels


def _best(by_column: Mapping[str, BySize], sizes: Sequence[int]) -> np.ndarray:
    """Return the highest of some controls at each batch size in percent, NaN where none is."""

    def best(size: int) -> float:
        values = [of[size].value for of in by_column.values() if size in of]
        return max((value for value in values if value is not None), default=float("nan"))

    return PERCENT * np.array([best(size) for size in sizes])


def _title(cells: Sequence[Measured], limit: float | None, letters: int) -> str:
    """Return the group's title and, below it, what is drawn."""
    shared = shared_settings(cells, TASK)
    below = (
        f"{shared}; bars: 95 % intervals; grey: from the best baseline (prior, blind, labels) to "
        "the oracle"
    )
    if limit is not None:
        below += f"; vertical: mask demixing's limit, {LIMIT} = {limit:g}"
    return f"{fill(cells[0].entry.group, letters)}\n{fill(below, letters)}"
