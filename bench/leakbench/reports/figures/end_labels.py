"""Labels at the ends of lines, in place of a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_HEIGHT = 1.3
"""Of a label, in sizes of its letters."""

BESIDE = 1.035
"""Where labels begin, in widths of their panel."""


@dataclass(frozen=True)
class EndLabel:
    """The label of a line.

    Attributes:
        x, y: where the line ends, in the panel's units.
    """

    text: str
    x: float
    y: float
    colour: str


def label_ends(figure: Figure, labels: Mapping[Axes, Sequence[EndLabel]], size: float) -> None:
    """Write labels at the right of panels, each as near to its line's end as the others allow.

    To be called when all else is drawn and the limits of the axes are set.

    Args:
        size: of the letters, in points.
    """
    written = {
        ax: [
            ax.annotate(
                label.text,
                xy=(label.x, label.y),
                xytext=(BESIDE, label.y),
                textcoords=ax.get_yaxis_transform(),
                color=label.colour,
                fontsize=size,
                va="center",
                annotation_clip=False,
                parse_math=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": label.colour,
                    "linewidth": 0.5,
                    "alpha": 0.6,
                    "shrinkA": 1,
                    "shrinkB": 3,
                    "relpos": (0, 0.5),
                },
            )
            for label in of
        ]
        for ax, of in labels.items()
    }
    # The labels' widths decide the panels' sizes, on which the distances depend.
    figure.draw_without_rendering()
    for ax, texts in written.items():
        low, high = ax.get_ylim()
        points = ax.get_window_extent().height * 72 / figure.dpi
        gap = LINE_HEIGHT * size / points * (high - low)
        heights = spread([label.y for label in labels[ax]], gap, low, high)
        for text, height in zip(texts, heights, strict=True):
            text.set_y(height)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return values that are at least a gap apart, in the same order, and moved as little.

    The sum of squared moves is least. Where the values do not fit between the ends, the gap is
    smaller.

    >>> spread([5.0, 1.0, 5.0], gap=2.0, low=0.0, high=10.0)
    [4.0, 1.0, 6.0]
    >>> spread([9.5, 9.5], gap=1.0, low=0.0, high=10.0)
    [9.0, 10.0]
    >>> spread([1.0, 1.0, 1.0], gap=5.0, low=0.0, high=4.0)
    [0.0, 2.0, 4.0]
    """
    from sklearn.isotonic import isotonic_regression

    if not values:
        return []
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    order = sorted(range(len(values)), key=lambda i: values[i])
    # Without the gaps that are due below them, values must only not fall.
    free = [values[i] - rank * gap for rank, i in enumerate(order)]
    moved = isotonic_regression(free, y_min=low, y_max=high - (len(values) - 1) * gap)
    found = [0.0] * len(values)
    for rank, i in enumerate(order):
        found[i] = float(moved[rank]) + rank * gap
    return found
