"""Facts about the figures that a site copies."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from leakbench.reports.site.figure_gallery import FigureView, published


def drawn(path: Path) -> FigureView:
    """Write a picture of greys with three channels, which a palette makes smaller."""
    grey = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    Image.fromarray(np.repeat(grey, 3, axis=2)).save(path)
    return FigureView(path, f"figures/{path.name}", "f", "F", "small", 64, 64)


def test_a_figure_gets_a_palette_and_looks_the_same(tmp_path: Path) -> None:
    figure = drawn(tmp_path / "small-batches.png")
    content = published(figure)
    assert len(content) < figure.source.stat().st_size
    with Image.open(BytesIO(content)) as after, Image.open(figure.source) as before:
        assert after.mode == "P" and after.size == before.size
        difference = np.asarray(after.convert("RGB"), int) - np.asarray(before.convert("RGB"), int)
    assert np.abs(difference).mean() < 8


def test_a_picture_of_individuals_is_copied_as_it_is(tmp_path: Path) -> None:
    figure = drawn(tmp_path / "small-reconstructions.png")
    assert published(figure) == figure.source.read_bytes()
