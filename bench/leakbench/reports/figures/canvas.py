"""Canvas, colours and axes that all figures share, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from leakbench.base.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8B5A2B",
    "#332288",
    "#882255",
)
"""Of attacks: Okabe and Ito's palette for colour-blind readers, without yellow and black.

The last two, of Tol's muted palette, are darker than all others.
"""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

GREY = "#444444"

Dashes = str | tuple[int, tuple[float, ...]]

DASHES: tuple[Dashes, ...] = (
    "dotted",
    "dashed",
    "dashdot",
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (1, 3)),
)
"""Of controls, which are grey."""

TITLE, LABEL, TICK = 10, 9, 8
"""Points."""

METADATA: Mapping[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""Metadata that would differ between two files of one figure."""


def blank_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches that is drawn by Agg, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


PALETTE = 256
"""Colours of a PNG file at most: to the eye as many as drawn, in a third of the bytes."""


def save(
    figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg"), exact: bool = False
) -> list[Path]:
    """Write a figure in each format, whole or not at all; return the files.

    Text in SVG and PDF files is text.

    Args:
        stem: their path without the ending.
        exact: whether a PNG file keeps every colour, as one with images does.

    Raises:
        UsageError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    written = []
    for ending in formats:
        written.append(stem.with_name(f"{stem.name}.{ending}"))
        with (
            replacing(written[-1]) as temporary,
            rc_context({"svg.hashsalt": "leakbench", "svg.fonttype": "none", "pdf.fonttype": 42}),
        ):
            if ending == "png" and not exact:
                temporary.write_bytes(_with_few_colours(figure))
            else:
                figure.savefig(temporary, format=ending, dpi=DPI, metadata=METADATA[ending])
    return written


def _with_few_colours(figure: Figure) -> bytes:
    """Return a figure as a PNG file with a palette."""
    from PIL import Image

    drawn, reduced = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    few.save(reduced, format="png", optimize=True, dpi=(DPI, DPI))
    return reduced.getvalue()


def plain_axes(ax: Axes) -> None:
    """Give a panel a faint grid, small ticks and no frame above and at the right."""
    ax.tick_params(labelsize=TICK)
    ax.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def legend_below(figure: Figure, labels: Iterable[str], width: float, size: float = LABEL) -> None:
    """Put one legend of all panels under a figure, in the labels' order.

    Args:
        width: of the figure, in inches.
        size: of the letters, in points.
    """
    handles: dict[str, object] = {}
    for ax in figure.axes:
        handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)) | handles
    ordered = [handles[label] for label in labels if label in handles]
    # A label takes the width of its letters and of the line beside it.
    letters = max((len(label) for label in handles), default=0)
    figure.legend(
        handles=ordered,
        loc="outside lower center",
        ncols=max(1, min(len(ordered), int(width / max(1.25, 0.4 + 0.52 * letters * size / 72)))),
        frameon=False,
        fontsize=size,
    )
