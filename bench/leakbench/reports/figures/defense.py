"""Accuracy against the level of a defense, and below it the utility under the defense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from leakbench.experiments.defense_labels import is_number
from leakbench.experiments.descriptions import text_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import (
    GREY,
    LABEL,
    TICK,
    TITLE,
    blank_figure,
    legend_below,
    plain_axes,
)
from leakbench.reports.figures.curves import (
    accuracy_range,
    defined,
    draw_level,
    scaled,
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
from leakbench.reports.figures.styles import Style, styles_of
from leakbench.reports.rows import LAYOUTS, Row, leading_values, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "defense" that sweeps a parameter of one'
EXAMPLE = (
    'defense = [{ name = "gaussian", sigma = 0.01 }, { name = "gaussian", sigma = 0.1 }] in its '
    "`sweep`"
)

PANELS_A_ROW = 2
"""At most; each has accuracy above utility."""

UTILITY, UNDEFENDED, FREQUENT = "utility", "utility, undefended", "most frequent class"
CENTRAL = "centrally trained"

LEVELS = ("central", "most_frequent_class")
"""Accuracies beside that of the undefended model, which is among the levels of utility."""


@dataclass
class Panel:
    """The accuracy panel and the utility panel below it.

    Attributes:
        accuracy: property → column → level → balanced accuracy.
        utility: level → main-task accuracy of a model trained under the defense.
        distortion: level → distortion of the victims' updates.
        main_task: of the undefended model.
    """

    accuracy: dict[str, dict[str, dict[Level, Estimate]]] = field(default_factory=dict)
    utility: dict[Level, Estimate] = field(default_factory=dict)
    distortion: dict[Level, float] = field(default_factory=dict)
    main_task: Mapping[str, float] = field(default_factory=dict)

    def add(self, measured: Measured, level: Level) -> None:
        """Add a cell's metrics, if it has any."""
        metrics = measured.record.metrics if measured.record else None
        if metrics is None:
            return
        for name, of_property in metrics.properties.items():
            if defined(of_property.balanced_accuracy):
                by_column = self.accuracy.setdefault(name, {})
                by_column.setdefault(measured.entry.column, {})[level] = (
                    of_property.balanced_accuracy
                )
        self.main_task = metrics.main_task
        shared = metrics.main_task["accuracy"]
        # Drawn as a line across, not as one with an interval.
        self.utility[level] = Estimate(value=shared, low=shared, high=shared)
        self.distortion[level] = 0.0
        if metrics.defense is not None:
            self.utility[level] = metrics.defense.utility
            self.distortion[level] = metrics.defense.distortion.value or 0.0


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each swept parameter of a defense and each property.

    A column of panels for each batch size, and each combination of other settings that differ. The
    undefended case is at the end at which the distortion is least. None where nothing is measured.
    """
    found: dict[str, Figure | None] = {}
    numbers: Counter[str] = Counter()
    groups: dict[str, list[Measured]] = {}
    for measured in cells:
        if measured.entry.layout == "defense":
            groups.setdefault(measured.entry.group, []).append(measured)
    for group in groups.values():
        for defense, parameter in _swept(group):
            panels = _panels(group, defense, parameter)
            for name in dict.fromkeys(n for m in group for n in m.entry.cell.properties):
                stem = f"defense-{defense}-{parameter}-{name}"
                numbers[stem] += 1
                measured_panels = {k: p for k, p in panels.items() if p.accuracy.get(name)}
                found[f"{stem}-{numbers[stem]}" if numbers[stem] > 1 else stem] = (
                    _figure(group, measured_panels, name, f"{parameter} of {defense}")
                    if measured_panels
                    else None
                )
    return found


def _swept(cells: Sequence[Measured]) -> list[tuple[str, str]]:
    """Return the defenses' parameters that are numbers and have several values."""
    values: dict[tuple[str, str], set[float]] = {}
    for cell in (m.entry.cell for m in cells):
        for parameter, value in cell.defense_parameters.items():
            if is_number(value):
                values.setdefault((cell.defense, parameter), set()).add(value)
    return [swept for swept, of in values.items() if len(of) > 1]


def _panels(cells: Sequence[Measured], defense: str, parameter: str) -> dict[str, Panel]:
    """Return the panels by title; only where the parameter has several levels."""
    defended = [
        m
        for m in cells
        if m.entry.cell.defense == defense and is_number(m.entry.cell.defense_parameters[parameter])
    ]
    undefended = [m for m in cells if m.entry.cell.defense == "none"]
    varying = varying_settings([m.entry for m in (*defended, *undefended)], LAYOUTS["defense"])
    fields = [*varying, "B"]
    others = _varying_parameters(defended, parameter)

    panels: dict[PanelSetting, Panel] = {}
    levels: dict[PanelSetting, set[float]] = {}
    for m in defended:
        parameters = m.entry.cell.defense_parameters
        setting = PanelSetting(
            parameters=tuple(text_of(parameters[name]) for name in others),
            setting=leading_values(m, "", fields),
        )
        panels.setdefault(setting, Panel()).add(m, float(parameters[parameter]))
        levels.setdefault(setting, set()).add(parameters[parameter])
    for setting, panel in panels.items():
        for m in undefended:
            if leading_values(m, "", fields) == setting.setting:
                panel.add(m, None)
    # Parameters change slowest, so that batch sizes are beside each other.
    order = list(dict.fromkeys(setting.parameters for setting in panels))
    ordered = sorted(panels, key=lambda setting: order.index(setting.parameters))
    return {
        setting.title(others, fields): panels[setting]
        for setting in ordered
        if len(levels[setting]) > 1
    }


@dataclass(frozen=True)
class PanelSetting:
    """What the cells of a panel share.

    Attributes:
        parameters: values of the defense's other parameters.
        setting: values of the other settings, the batch size last.
    """

    parameters: tuple[str, ...]
    setting: Row

    def title(self, parameters: Sequence[str], fields: Sequence[str]) -> str:
        """Return the panel's title, from the names of parameters and settings."""
        names, values = (*parameters, *fields), (*self.parameters, *self.setting)
        return ", ".join(f"{name} = {of}" for name, of in zip(names, values, strict=True))


def _varying_parameters(cells: Sequence[Measured], parameter: str) -> list[str]:
    """Return the other parameters of a defense that differ between cells."""
    values: dict[str, set[str]] = {}
    for m in cells:
        for name, value in m.entry.cell.defense_parameters.items():
            values.setdefault(name, set()).add(text_of(value))
    return [name for name, of in values.items() if len(of) > 1 and name != parameter]


def _figure(
    cells: Sequence[Measured], panels: Mapping[str, Panel], name: str, swept: str
) -> Figure:
    styles = styles_of(cells)
    columns = min(len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(3.4 * columns + 0.6, 5.0)
    figure = blank_figure(width, 4.2 * rows + 1.7)
    axes = figure.subplots(
        2 * rows, columns, sharex=False, squeeze=False, height_ratios=(2, 1) * rows
    )
    drawn = [
        (of.values(), styles[column])
        for panel in panels.values()
        for column, of in panel.accuracy[name].items()
    ]
    for number, (title, panel) in enumerate(panels.items()):
        row, column = divmod(number, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        axis = _axis(panel)
        above.set_title(title, fontsize=LABEL, parse_math=False)
        _draw_accuracy(above, panel.accuracy[name], styles, axis)
        _draw_utility(below, panel, axis)
        above.set_ylim(*accuracy_range(drawn))
        below.set_ylim(*_utility_range(panels.values()))
        below.set_xlabel(f"{swept}; below it the distortion", fontsize=TICK)
        above.set_ylabel(BALANCED_ACCURACY.heading if column == 0 else "", fontsize=LABEL)
        below.set_ylabel("main task, %" if column == 0 else "", fontsize=LABEL)
    for number in range(len(panels), rows * columns):
        row, column = divmod(number, columns)
        axes[2 * row, column].set_axis_off()
        axes[2 * row + 1, column].set_axis_off()
    title = _title(cells, name, letters=int(12 * width))
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    legend_below(figure, [*styles, UTILITY, UNDEFENDED, CENTRAL, FREQUENT], width)
    return figure


def _utility_range(panels: Iterable[Panel]) -> tuple[float, float]:
    """Return the least and the greatest percentage of the main task that is drawn."""
    shares = [
        share
        for p in panels
        for of in p.utility.values()
        for share in (of.low, of.value, of.high, *map(p.main_task.get, LEVELS))
        if share is not None
    ]
    return max(100 * min(shares) - 3, 0.0), min(100 * max(shares) + 3, 101.0)


def _axis(panel: Panel) -> LevelAxis:
    """Return the levels' axis; the undefended case is where the distortion is least."""
    levels = {level for of in panel.accuracy.values() for by in of.values() for level in by}
    known = sorted(level for level in levels if level is not None)
    rising = not known or panel.distortion[known[0]] <= panel.distortion[known[-1]]
    return level_axis(levels, undefended_left=rising)


def _draw_accuracy(
    ax: Axes,
    by_column: Mapping[str, Mapping[Level, Estimate]],
    styles: Mapping[str, Style],
    axis: LevelAxis,
) -> None:
    """Draw each column over levels; a control that is equal at all of them as a line across."""
    plain_axes(ax)
    set_level_axis(ax, axis, dict.fromkeys(axis.positions, ""))
    for column, style in styles.items():
        by_level = by_column.get(column, {})
        if style.control and len({each.value for each in by_level.values()}) == 1:
            draw_level(ax, next(iter(by_level.values())), style, column)
        else:
            shift = shifts(styles).get(column, 0.0)
            draw_over_levels(ax, axis, by_level, style, column, shift)


def _draw_utility(ax: Axes, panel: Panel, axis: LevelAxis) -> None:
    """Draw main-task accuracy over levels, beside accuracies without a defense."""
    plain_axes(ax)
    set_level_axis(
        ax,
        axis,
        {level: f"{short(level)}\n{_rounded(panel.distortion[level])}" for level in axis.positions},
    )
    for text in ax.get_xticklabels():
        text.set_fontsize(TICK - 1)
    label = UTILITY
    for piece in axis.pieces:
        x = [axis.positions[level] for level in piece]
        value, low, high = scaled([panel.utility[level] for level in piece])
        ax.vlines(x, low, high, color="black", alpha=0.35, linewidth=1)
        ax.plot(x, value, color="black", marker="*", markersize=6, linewidth=1.3, label=label)
    for key, style, level in (
        ("accuracy", (0, (5, 2)), UNDEFENDED),
        ("central", (0, (5, 1, 1, 1)), CENTRAL),
        ("most_frequent_class", (0, (1, 2)), FREQUENT),
    ):
        if key in panel.main_task:
            share = 100 * panel.main_task[key]
            ax.axhline(share, color=GREY, linestyle=style, linewidth=1, zorder=1.5, label=level)


def _rounded(distortion: float) -> str:
    """Return a ratio with two digits, as the short label of a tick.

    >>> _rounded(0.0), _rounded(0.0312), _rounded(3.14), _rounded(312.4)
    ('0', '0.031', '3.1', '310')
    """
    return f"{float(f'{distortion:.2g}'):g}"


def _title(cells: Sequence[Measured], name: str, letters: int) -> str:
    """Return the group's title and, below it, the settings that its cells share."""
    below = f"{shared_settings(cells)}; bands and bars: 95 % intervals"
    return f"{fill(f'{cells[0].entry.group}: {name}', letters)}\n{fill(below, letters)}"
