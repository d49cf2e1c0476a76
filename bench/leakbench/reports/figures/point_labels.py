"""Labels beside points, of which none hides another or a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

PLACES: Sequence[tuple[int, int, Literal["left", "right"], Literal["bottom", "top"]]] = (
    (4, 3, "left", "bottom"),
    (4, -3, "left", "top"),
    (-4, 3, "right", "bottom"),
    (-4, -3, "right", "top"),
)
"""Where a label may stand: points to the right and up from its point, and its alignment."""

MARKER = 3.0
"""Half the size of a marker in points."""


@dataclass(frozen=True)
class PointLabel:
    """A label of a point.

    Attributes:
        x, y: the point, in the panel's units.
    """

    text: str
    x: float
    y: float
    colour: str


def label_points(figure: Figure, labels: Mapping[Axes, Sequence[PointLabel]], size: float) -> None:
    """Write each label beside its point where it hides no other label and no marker.

    The first labels choose their places first. A label that would hide something wherever it stands
    is left out. To be called when all else is drawn and the limits of the axes are set.

    Args:
        size: of the letters, in points.
    """
    figure.draw_without_rendering()
    for ax, of in labels.items():
        taken = _markers(figure, ax)
        for label in of:
            written = _written(ax, label, size)
            if (box := _place(written, taken, ax.get_window_extent())) is None:
                written.remove()
            else:
                taken.append(box)


def _written(ax: Axes, label: PointLabel, size: float) -> Annotation:
    written = ax.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=size,
        color=label.colour,
        parse_math=False,
        zorder=5,
    )
    # The panels keep the sizes that they have without it.
    written.set_in_layout(False)
    return written


def _place(written: Annotation, taken: Sequence[Bbox], panel: Bbox) -> Bbox | None:
    """Move a label to its first free place and return its box; None if there is none."""
    for right, up, horizontal, vertical in PLACES:
        written.set_position((right, up))
        written.set_horizontalalignment(horizontal)
        written.set_verticalalignment(vertical)
        box = written.get_window_extent()
        inside = panel.containsx(box.x0) and panel.containsx(box.x1)
        if inside and not any(box.overlaps(other) for other in taken):
            return box
    return None


def _markers(figure: Figure, ax: Axes) -> list[Bbox]:
    """Return the boxes of a panel's markers."""
    from matplotlib.transforms import Bbox

    half = MARKER * figure.dpi / 72
    shown = [line for line in ax.lines if line.get_marker() not in ("", "None", None)]
    return [
        Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half)
        for line in shown
        for x, y in ax.transData.transform(line.get_xydata())
    ]
