"""Share of individuals reconstructed exactly, and seconds, by network and batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import log2
from textwrap import fill
from typing import TYPE_CHECKING

from leakbench.base.registry import ATTACKS
from leakbench.metrics.of_attacks import EXACT_SHARE
from leakbench.records.measured import Measured
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.figures.canvas import (
    COLOURS,
    LABEL,
    MARKERS,
    TICK,
    TITLE,
    blank_figure,
    plain_axes,
)
from leakbench.reports.figures.curves import PERCENT, shared_settings
from leakbench.reports.rows import leading_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = 'group with layout = "exact" and a limit that sweeps the batch size'
EXAMPLE = "limit = 64, and batch_size = [2, 8] in its `sweep`"


@dataclass
class Line:
    """What an attack found in one group, by batch size.

    Attributes:
        task: the main task, with its number of classes.
        limit: of the batch size, see `Group`.
        exact: batch size → share found exactly, in percent.
        seconds: batch size → per victim batch.
    """

    task: str
    limit: int
    exact: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)


Lines = Mapping[tuple[str, str], Line]
"""Group and main task → its line."""


def figures(cells: Sequence[Measured]) -> dict[str, Figure | None]:
    """Return one figure of all groups that state a limit; None if nothing is measured.

    A line for each group and main task, of its first attack that is no control.
    """
    drawable = [
        m
        for m in cells
        if m.entry.layout == "exact"
        and m.entry.limit is not None
        and not ATTACKS.get(m.entry.cell.attack).control
    ]
    lines = _lines(drawable)
    if not any(len(line.exact) > 1 for line in lines.values()):
        return {"edges": None} if drawable else {}
    return {"edges": _figure(drawable, lines)}


def _lines(cells: Sequence[Measured]) -> Lines:
    found: dict[tuple[str, str], Line] = {}
    first = {m.entry.group: m.entry.column for m in reversed(cells)}
    for m in cells:
        metrics = m.record.metrics if m.record else None
        share, seconds = metrics.exact if metrics else None, seconds_per_batch(m)
        if m.entry.column != first[m.entry.group] or share is None or share.value is None:
            continue
        (task,) = leading_values(m, "", ["main task"])
        assert m.entry.limit is not None
        line = found.setdefault((m.entry.group, task), Line(task, m.entry.limit))
        line.exact[m.entry.cell.batch_size] = PERCENT * share.value
        if seconds is not None:
            line.seconds[m.entry.cell.batch_size] = seconds
    return found


def _figure(cells: Sequence[Measured], lines: Lines) -> Figure:
    figure = blank_figure(8.4, 5.2)
    exact, seconds = figure.subplots(1, 2)
    groups = list(dict.fromkeys(group for group, _ in lines))
    tasks = list(dict.fromkeys(task for _, task in lines))
    colours = dict(zip(groups, cycle(COLOURS), strict=False))
    markers = dict(zip(tasks, cycle(MARKERS), strict=False))
    sizes = sorted({size for line in lines.values() for size in line.exact})
    reached = [*sizes, *(line.limit for line in lines.values())]
    for ax, heading in ((exact, EXACT_SHARE.heading), (seconds, "seconds per batch")):
        plain_axes(ax)
        ax.set_title(heading, fontsize=LABEL)
        ax.set_xlabel("individuals in the batch, B", fontsize=LABEL)
        ticks = [2**power for power in range(int(log2(max(reached))) + 1)]
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [str(size) for size in ticks], fontsize=TICK)
        ax.set_xticks([], minor=True)
    seconds.set_yscale("log")
    exact.set_ylim(-4, 108)
    for number, ((group, task), line) in enumerate(lines.items()):
        colour = colours[group]
        # Lines that lie on each other at 0 and 100 % are drawn side by side.
        shift = 2 ** (ASIDE * (number - (len(lines) - 1) / 2))
        _draw(exact, line.exact, colour, markers[task], shift)
        _draw(seconds, line.seconds, colour, markers[task], shift)
    for group in groups:
        limit = next(line.limit for (of, _), line in lines.items() if of == group)
        label = f"{group}; the equations end at B = {limit}"
        exact.plot([], [], color=colours[group], label=label)
        exact.axvline(limit, color=colours[group], linewidth=0.9, linestyle="dotted")
    for task in tasks if len(tasks) > 1 else []:
        exact.plot([], [], color="0.3", marker=markers[task], linestyle="", label=task)
    figure.legend(
        *exact.get_legend_handles_labels(), loc="outside lower center", fontsize=TICK, frameon=False
    )
    title = f"{shared_settings(cells, {'': 'data set'})}; dotted: where the equations end"
    figure.suptitle(fill(title, 100), fontsize=TITLE, parse_math=False)
    return figure


def _draw(ax: Axes, values: Mapping[int, float], colour: str, marker: str, shift: float) -> None:
    sizes = sorted(values)
    ax.plot(
        [size * shift for size in sizes],
        [values[size] for size in sizes],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.3,
        alpha=0.9,
    )


ASIDE = 0.03
"""Doublings of the batch size between the points of two lines."""
