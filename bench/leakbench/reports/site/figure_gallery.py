"""The figures of a run that may be published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from leakbench.base.files import read_regular
from leakbench.reports.site.view import made_unique, slug

KINDS: Mapping[str, str] = {
    "batches": "Accuracy against batch size, between the best baseline and the oracle",
    "budget": "Accuracy against the budget of gradient evaluations",
    "defense": "Accuracy, and utility, against a defense's level, as in the paper's Fig. 5",
    "tradeoff": "Leakage against utility of all defenses",
    "phase": "Share of individuals found exactly, over batch size and hidden units",
    "edges": "Share of individuals found exactly, and seconds, by network and batch size",
    "ablation": "Accuracy against λ by batch size, as in the paper's Fig. 6",
    "features": "Victims' deep features by round (t-SNE), as in the paper's Fig. 2",
    "reconstructions": "Reconstructions of the first victim batch, as in the paper's Fig. 4",
}
"""Kind of figure, see `leakbench figure` → what it shows."""

OF_PIXELS = "reconstructions"
"""The kind that shows individuals."""


@dataclass(frozen=True)
class FigureView:
    """A figure of the site.

    Attributes:
        source: the file it is copied from.
        path: of its file, in the site's folder.
        identifier: its name in the page's address.
        caption: what it shows.
        suite: the suite it was drawn from.
        width, height: in pixels.
    """

    source: Path
    path: str
    identifier: str
    caption: str
    suite: str
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """The figures to publish, and name of a file → why it is left out."""

    figures: tuple[FigureView, ...]
    left_out: Mapping[str, str]


def gallery(folder: Path, suites: Iterable[str], reconstructions: bool) -> Gallery:
    """Return the figures of suites in a folder, such as `fig5-tradeoff-B1.png`.

    Other images are left out, since it is not known what they show. So are reconstructions, which
    may show real individuals, unless they are asked for.

    Args:
        suites: names of suites.
        reconstructions: whether to include these too.
    """
    named = "|".join(re.escape(name) for name in sorted(suites, key=len, reverse=True))
    pattern = re.compile(rf"({named})-({'|'.join(KINDS)})(-.*)?")
    found: list[tuple[Path, re.Match[str], tuple[int, int]]] = []
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("*.png")):
        match = pattern.fullmatch(path.stem)
        size = _size(path)
        if match is None:
            left_out[path.name] = "it is no figure of a suite; name its suite with --suite"
        elif match[2] == OF_PIXELS and not reconstructions:
            left_out[path.name] = (
                "it may show real individuals; pass --reconstructions if it shows none"
            )
        elif size is None:
            left_out[path.name] = "it is no PNG that can be read"
        else:
            found.append((path, match, size))
    names = made_unique([slug(path.stem) for path, _, _ in found])
    figures = [
        FigureView(path, f"figures/{name}.png", name, _caption(match), match[1], *size)
        for name, (path, match, size) in zip(names, found, strict=True)
    ]
    return Gallery(tuple(figures), left_out)


COLOURS = 256
"""Colours of a published figure, which are enough for lines, marks and their smooth edges."""


def published(figure: FigureView) -> bytes:
    """Return a figure with a palette, which has half of the size; as it is where that is smaller.

    A figure of pixels is left as it is.
    """
    original = read_regular(figure.source)
    if f"-{OF_PIXELS}" in figure.source.stem:
        return original
    smaller = BytesIO()
    with Image.open(BytesIO(original), formats=["PNG"]) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image.convert("RGBA"), mask=image.convert("RGBA"))
        flat.quantize(COLOURS, dither=Image.Dither.NONE).save(smaller, "PNG", optimize=True)
    return min(original, smaller.getvalue(), key=len)


def _caption(match: re.Match[str]) -> str:
    which = (match[3] or "").strip("-").replace("-", " ")
    return f"{KINDS[match[2]]}{f' ({which})' if which else ''}"


def _size(path: Path) -> tuple[int, int] | None:
    """Return the width and height of a PNG; None for any other file."""
    try:
        with Image.open(BytesIO(read_regular(path)), formats=["PNG"]) as image:
            image.verify()
            return image.size
    except Exception:  # Pillow raises as many kinds as files can be wrong
        return None
