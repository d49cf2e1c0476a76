"""Leakage under each defense against the utility that it costs the shared model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from leakbench.base.registry import ATTACKS
from leakbench.experiments.defense_labels import defense_family, defense_numbers, defense_text
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.advantage import advantage_over
from leakbench.reports.baselines import (
    Baseline,
    best_baseline,
    is_baseline,
    knowledge_of,
    tells_labels,
)
from leakbench.reports.figures.canvas import (
    COLOURS,
    GREY,
    LABEL,
    MARKERS,
    TICK,
    TITLE,
    blank_figure,
    legend_below,
    plain_axes,
)
from leakbench.reports.figures.curves import defined, scaled, shared_settings
from leakbench.reports.figures.point_labels import PointLabel, label_points
from leakbench.reports.rows import LAYOUTS, leading_values, settings_text, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "defense", the control `labels`, and an attack,'
EXAMPLE = "[attack.feature] and [attack.labels]"

PANELS_A_ROW = 2

UNDEFENDED = "none"

NOTHING = Estimate(value=0.0, low=0.0, high=0.0)


@dataclass(frozen=True)
class Point:
    """A defense at a level.

    Attributes:
        numbers: the level's parameters.
        distortion: of the victims' updates, by which levels are ordered.
        lost: main-task accuracy lost.
        advantage: of the strongest attack over the best baseline with its knowledge, in balanced
            accuracy.
        attack: the column of that attack.
    """

    numbers: Mapping[str, float]
    distortion: float
    lost: Estimate
    advantage: Estimate
    attack: str


Panel = Mapping[str, list[Point]]
"""Defense → its levels."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each batch size, and each combination of what else differs.

    A panel per property, a marker per defense and level, of all groups that are laid out by
    defense, at the strongest of all attacks that were measured there. None where none was measured
    beside a baseline with its knowledge.
    """
    fitting = [m for m in cells if m.entry.layout == "defense"]
    if not any(map(_is_attack, fitting)) or not any(map(_is_baseline, fitting)):
        return {}
    varying = varying_settings([m.entry for m in fitting], LAYOUTS["defense"])
    fields = [*varying, "B"]
    by_setting: dict[tuple[str, ...], list[Measured]] = {}
    for m in fitting:
        by_setting.setdefault(leading_values(m, "", fields), []).append(m)
    found: dict[str, Figure | None] = {}
    for number, of_setting in enumerate(by_setting.values(), start=1):
        panels = _panels(of_setting)
        setting = settings_text(of_setting[0], fields)
        batch_size = of_setting[0].entry.cell.batch_size
        stem = f"tradeoff-{number}" if varying else f"tradeoff-B{batch_size}"
        attacks = _strongest(of_setting, panels)
        found[stem] = _figure(of_setting, panels, setting, attacks) if panels else None
    return found


def _strongest(cells: Sequence[Measured], panels: Mapping[str, Panel]) -> list[str]:
    """Return the attacks of the points, and under how many defenses if they are not under all.

    A defense that was attacked by fewer attacks may seem stronger than it is.
    """
    columns: dict[str, set[str]] = {}
    for m in cells:
        if _is_attack(m) and m.record and m.record.metrics:
            columns.setdefault(m.entry.column, set()).add(defense_text(m.entry.cell))
    total = len({defense_text(m.entry.cell) for m in cells})
    drawn = {p.attack for panel in panels.values() for points in panel.values() for p in points}
    return [
        column if len(of) == total else f"{column} (under {len(of)} of {total})"
        for column, of in columns.items()
        if column in drawn
    ]


def _is_attack(measured: Measured) -> bool:
    return not ATTACKS.get(measured.entry.cell.attack).control


def _is_baseline(measured: Measured) -> bool:
    return is_baseline(measured.entry.cell.attack)


def _panels(cells: Sequence[Measured]) -> dict[str, Panel]:
    """Return the panels by property; a defense that has one level is named with it."""
    by_level: dict[str, dict[str, list[Measured]]] = {}
    for m in cells:
        family, text = defense_family(m.entry.cell), defense_text(m.entry.cell)
        by_level.setdefault(family, {}).setdefault(text, []).append(m)
    panels: dict[str, dict[str, list[Point]]] = {}
    for family, of_family in by_level.items():
        named = family if len(of_family) > 1 else next(iter(of_family))
        for of in of_family.values():
            for name in dict.fromkeys(n for m in of for n in m.entry.cell.properties):
                if (point := _point(of, name)) is not None:
                    panels.setdefault(name, {}).setdefault(named, []).append(point)
    for panel in panels.values():
        for points in panel.values():
            points.sort(key=lambda point: point.distortion)
    return dict(panels)


def _point(cells: Sequence[Measured], name: str) -> Point | None:
    """Return the point of one defense and level; None where attack or baseline are missing."""
    baselines = [
        Baseline(
            title=m.entry.column,
            knowledge=knowledge_of(m),
            estimate=_accuracy(m, name),
            tells_labels=tells_labels(m.entry.cell.attack),
        )
        for m in cells
        if _is_baseline(m)
    ]
    advantages = [
        (advantage_over(accuracy, baseline.estimate), m.entry.column)
        for m in cells
        if _is_attack(m)
        and (accuracy := _accuracy(m, name)) is not None
        and defined(accuracy)
        and (baseline := best_baseline(baselines, knowledge_of(m))) is not None
        and baseline.estimate is not None
    ]
    metrics = next((m.record.metrics for m in cells if m.record and m.record.metrics), None)
    if not advantages or metrics is None:
        return None
    defense = metrics.defense
    advantage, attack = max(advantages, key=lambda each: each[0].value or 0.0)
    return Point(
        numbers=defense_numbers(cells[0].entry.cell),
        distortion=0.0 if defense is None else defense.distortion.value or 0.0,
        lost=NOTHING if defense is None else defense.utility_lost,
        advantage=advantage,
        attack=attack,
    )


def _accuracy(measured: Measured, name: str) -> Estimate | None:
    metrics = measured.record.metrics if measured.record else None
    found = metrics.properties.get(name) if metrics else None
    return found.balanced_accuracy if found else None


def _figure(
    cells: Sequence[Measured],
    panels: Mapping[str, Panel],
    setting: str,
    attacks: Sequence[str],
) -> Figure:
    columns = min(len(panels), PANELS_A_ROW)
    rows = ceil(len(panels) / columns)
    width = max(3.6 * columns + 0.4, 5.0)
    figure = blank_figure(width, 3.0 * rows + 1.8)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    styles = _styles(list(dict.fromkeys(d for panel in panels.values() for d in panel)))
    labels: dict[Axes, list[PointLabel]] = {}
    for number, (ax, (name, panel)) in enumerate(zip(axes, panels.items(), strict=False)):
        plain_axes(ax)
        ax.set_title(name, fontsize=LABEL, parse_math=False)
        ax.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for defense, points in panel.items():
            _draw(ax, points, styles[defense], defense)
        labels[ax] = _labels(panel, styles)
        if number >= len(panels) - columns:
            ax.set_xlabel("main-task accuracy lost, points", fontsize=LABEL)
            ax.tick_params(labelbottom=True)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.supylabel("attack above the best baseline, points", fontsize=LABEL)
    title = _title(cells, setting, attacks, int(12 * width))
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    legend_below(figure, styles, width, size=TICK)
    label_points(figure, labels, TICK - 1)
    return figure


@dataclass(frozen=True)
class _Style:
    colour: str
    marker: str
    filled: bool


def _styles(defenses: Sequence[str]) -> dict[str, _Style]:
    """Return each defense's style; colours that repeat have hollow markers."""
    styles = {}
    for number, defense in enumerate(each for each in defenses if each != UNDEFENDED):
        again, place = divmod(number, len(COLOURS))
        marker = MARKERS[number % len(MARKERS)]
        styles[defense] = _Style(COLOURS[place], marker, filled=again % 2 == 0)
    return {UNDEFENDED: _Style("black", "*", filled=True)} | styles


def _draw(ax: Axes, points: Sequence[Point], style: _Style, label: str) -> None:
    """Draw a defense's levels with intervals, connected in the order of distortion."""
    x, least, most = scaled([point.lost for point in points])
    value, low, high = scaled([point.advantage for point in points])
    ax.vlines(x, low, high, color=style.colour, alpha=0.35, linewidth=1)
    ax.hlines(value, least, most, color=style.colour, alpha=0.35, linewidth=1)
    ax.plot(
        x,
        value,
        color=style.colour,
        marker=style.marker,
        markersize=5.5,
        markerfacecolor=style.colour if style.filled else "white",
        linewidth=0.7,
        label=label,
    )


def _labels(panel: Panel, styles: Mapping[str, _Style]) -> list[PointLabel]:
    """Return the labels of the ends of lines, those that cost most first: near 0 many meet."""
    found = [
        PointLabel(
            text=_differing(point, points),
            x=100 * (point.lost.value or 0.0),
            y=100 * (point.advantage.value or 0.0),
            colour=styles[defense].colour,
        )
        for defense, points in panel.items()
        if len(points) > 1
        for point in (points[0], points[-1])
    ]
    return sorted(found, key=lambda label: label.x, reverse=True)


def _differing(point: Point, points: Sequence[Point]) -> str:
    """Return the parameters of a level in which levels differ."""
    return ", ".join(
        f"{value:g}"
        for key, value in point.numbers.items()
        if any(each.numbers.get(key) != value for each in points)
    )


def _title(cells: Sequence[Measured], setting: str, attacks: Sequence[str], letters: int) -> str:
    """Return the figure's title: the setting, the attacks, and how intervals are computed."""
    strongest = attacks[0] if len(attacks) == 1 else f"the strongest of {'; '.join(attacks)}"
    below = (
        f"{shared_settings(cells)}, {setting}; above the best baseline: {strongest}; bars: 95 %, "
        "of leakage from both intervals as if independent"
    )
    return f"Leakage against utility\n{fill(below, letters)}"
