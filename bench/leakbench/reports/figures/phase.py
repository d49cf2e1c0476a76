"""Share of individuals reconstructed exactly, over batch size and hidden units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from leakbench.base.registry import ATTACKS
from leakbench.metrics.of_attacks import EXACT_SHARE
from leakbench.records.measured import Measured
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.figures.canvas import LABEL, TICK, TITLE, blank_figure
from leakbench.reports.figures.curves import shared_settings
from leakbench.reports.figures.demixing_limit import DEMIXING, LIMIT
from leakbench.reports.rows import LAYOUTS, leading_values, settings_text, varying_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "exact" that sweeps batch_size and hidden units'
EXAMPLE = (
    "batch_size = [8, 32], model_parameters = [{ hidden = 128 }, { hidden = 256 }] in its `sweep`"
)

RED = "#C00000"
"""Of the limit, on the map's yellow and blue."""


@dataclass(frozen=True, order=True)
class Phase:
    """A field of a map.

    Attributes:
        units: m hidden units.
        batch_size: B individuals in the update.
    """

    units: int
    batch_size: int


@dataclass(frozen=True)
class Result:
    """The values of a field.

    Attributes:
        exact: share of individuals reconstructed exactly, in percent.
        seconds: per victim batch.
    """

    exact: float
    seconds: float


Panels = Mapping[str, Mapping[Phase, Result | None]]
"""Main task, and other settings that differ → field → its values, if it is measured."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return a figure for each attack's column of each group that is laid out by exactness.

    A panel per main task, above the share of individuals with cosine ≥ 0.99, below it the seconds
    per victim batch. None where nothing is measured.
    """
    found: dict[str, Figure | None] = {}
    groups: dict[tuple[str, str], list[Measured]] = {}
    for m in cells:
        cell = m.entry.cell
        if (
            m.entry.layout == "exact"
            and "hidden" in cell.model_parameters
            and not ATTACKS.get(cell.attack).control
        ):
            groups.setdefault((m.entry.group, m.entry.column), []).append(m)
    for number, ((group, column), of) in enumerate(groups.items(), start=1):
        panels = _panels(of)
        if len({phase.units for panel in panels.values() for phase in panel}) < 2:
            continue
        measured = any(result for panel in panels.values() for result in panel.values())
        title = f"{group}: {column}"
        found[f"phase-{number}"] = _figure(of, panels, title) if measured else None
    return found


def _panels(cells: Sequence[Measured]) -> Panels:
    panels: dict[str, dict[Phase, Result | None]] = {}
    varying = varying_settings([m.entry for m in cells], LAYOUTS["exact"])
    for m in cells:
        (task,) = leading_values(m, "", ["main task"])
        if varying:
            task = f"{task}, {settings_text(m, varying)}"
        cell = m.entry.cell
        phase = Phase(int(cell.model_parameters["hidden"]), cell.batch_size)
        panels.setdefault(task, {})[phase] = _result(m)
    return panels


def _result(measured: Measured) -> Result | None:
    metrics = None if measured.record is None else measured.record.metrics
    exact = None if metrics is None else metrics.exact
    seconds = seconds_per_batch(measured)
    if exact is None or exact.value is None or seconds is None:
        return None
    return Result(100 * exact.value, seconds)


def _figure(cells: Sequence[Measured], panels: Panels, title: str) -> Figure:
    width = max(2.9 * len(panels) + 0.8, 5.0)
    figure = blank_figure(width, 6.4)
    axes = figure.subplots(2, len(panels), squeeze=False)
    has_limit = all(m.entry.cell.attack == DEMIXING for m in cells)
    for column, (task, panel) in enumerate(panels.items()):
        units = sorted({phase.units for phase in panel})
        sizes = sorted({phase.batch_size for phase in panel})
        exact, seconds = (np.full((len(units), len(sizes)), np.nan) for _ in range(2))
        for phase, result in panel.items():
            if result is not None:
                field = units.index(phase.units), sizes.index(phase.batch_size)
                exact[field], seconds[field] = result.exact, result.seconds
        top, bottom = axes[:, column]
        top.set_title(_wrapped(task), fontsize=LABEL, parse_math=False)
        _draw(top, exact, units, sizes, "{:.0f}", (0.0, 100.0))
        _draw(bottom, np.log10(seconds), units, sizes, "{:.2g}", (-2.0, 2.0), shown=seconds)
        if has_limit:
            _draw_limit(top, units, sizes)
            _draw_limit(bottom, units, sizes)
        bottom.set_xlabel("individuals in the update B", fontsize=LABEL)
        for ax, what in ((top, EXACT_SHARE.heading), (bottom, "seconds per batch")):
            ax.set_ylabel(f"hidden units m — {what}" if column == 0 else "", fontsize=LABEL)
    below = f"{shared_settings(cells, {'': 'data set'})}; blank: not measured"
    if has_limit:
        below += f"; red line: its limit, {LIMIT}"
    whole = f"{fill(title, int(11 * width))}\n{fill(below, int(12 * width))}"
    figure.suptitle(whole, fontsize=TITLE, parse_math=False)
    return figure


def _wrapped(task: str) -> str:
    """Return a main task in lines, broken between its attributes.

    >>> _wrapped("Mouth_Slightly_Open+Black_Hair+Bangs (K = 8)").splitlines()
    ['Mouth_Slightly_Open+Black_Hair+', 'Bangs (K = 8)']
    """
    return fill(task.replace("+", "+ "), 34).replace("+ ", "+")


def _draw_limit(ax: Axes, units: Sequence[int], sizes: Sequence[int]) -> None:
    """Draw a line between the fields with B ≤ m / 2 and those with larger batches."""
    from matplotlib.patheffects import withStroke

    below = [sum(size <= m / 2 for size in sizes) for m in units]
    # Columns and rows are equally wide, whatever B and m they stand for: the line has steps.
    x = [number - 0.5 for number in below for _ in range(2)]
    y = [row + aside for row in range(len(units)) for aside in (-0.5, 0.5)]
    (line,) = ax.plot(x, y, color=RED, linewidth=2.5, solid_capstyle="butt", label=LIMIT)
    line.set_path_effects([withStroke(linewidth=4.5, foreground="white")])


def _draw(
    ax: Axes,
    values: np.ndarray,
    units: Sequence[int],
    sizes: Sequence[int],
    wording: str,
    ends: tuple[float, float],
    shown: np.ndarray | None = None,
) -> None:
    """Draw a map with its numbers, so that it can be read without colours."""
    ax.imshow(values, cmap="cividis", vmin=ends[0], vmax=ends[1], aspect="auto", origin="lower")
    ax.set_xticks(range(len(sizes)), [str(size) for size in sizes], fontsize=TICK)
    ax.set_yticks(range(len(units)), [str(m) for m in units], fontsize=TICK)
    middle = sum(ends) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            number = value if shown is None else shown[row, column]
            colour = "black" if value > middle else "white"
            text = wording.format(number)
            ax.text(column, row, text, ha="center", va="center", fontsize=TICK, color=colour)
