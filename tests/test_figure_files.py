"""Facts about the files of figures: formats, text, colours, and that two drawings are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from drawing import DEFENSES_BY_LEVEL, HEAD, is_png
from leakbench.records.store import Store
from leakbench.reports.drawing import Style
from leakbench.reports.figures.canvas import blank_figure, save
from records import measured, suite_entries


def figure() -> Figure:
    found = blank_figure(3, 2)
    ax = found.subplots()
    ax.imshow([[x * y for x in range(40)] for y in range(40)], cmap="viridis")
    ax.set_xlabel("batch size")
    found.suptitle("A title")
    return found


def test_text_is_text_in_svg_and_a_pdf_can_be_had_too(tmp_path: Path) -> None:
    svg, pdf = save(figure(), tmp_path / "drawn", ["svg", "pdf"])
    assert "batch size</text>" in svg.read_text()
    assert pdf.read_bytes().startswith(b"%PDF")


def test_a_png_has_a_palette_unless_it_must_be_exact(tmp_path: Path) -> None:
    (few,) = save(figure(), tmp_path / "few", ["png"])
    (exact,) = save(figure(), tmp_path / "exact", ["png"], exact=True)
    assert is_png(few) and is_png(exact)
    with Image.open(few) as small, Image.open(exact) as large:
        assert small.size == large.size
        assert (small.mode, large.mode) == ("P", "RGBA")
    assert few.stat().st_size < 0.6 * exact.stat().st_size


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_two_files_of_one_figure_are_the_same(tmp_path: Path, ending: str) -> None:
    (first,) = save(figure(), tmp_path / "first", [ending])
    (second,) = save(figure(), tmp_path / "second", [ending])
    assert first.read_bytes() == second.read_bytes()


def test_a_figure_may_have_no_title(tmp_path: Path) -> None:
    (with_title,) = Style(["svg"]).write(figure(), tmp_path / "titled")
    (without,) = Style(["svg"], title=False).write(figure(), tmp_path / "plain")
    assert "A title" in with_title.read_text()
    assert "A title" not in without.read_text()


Run = Callable[..., tuple[int, str, str]]


def test_the_command_writes_the_formats_that_are_asked_for(run: Run, tmp_path: Path) -> None:
    suite = tmp_path / "small.toml"
    suite.write_text(HEAD + DEFENSES_BY_LEVEL)
    for entry in suite_entries(str(suite), only=["batch_size=8"]):
        Store(tmp_path / "records").write(measured(entry))
    options = ("--only", "batch_size=8", "--format", "pdf", "--no-title", "--out", str(tmp_path))
    code, _, err = run("figure", "tradeoff", str(suite), *options)
    assert (code, err) == (0, "")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["small-tradeoff-B8.pdf"]


def test_images_are_drawn_in_one_format(run: Run, tmp_path: Path) -> None:
    suite = tmp_path / "small.toml"
    suite.write_text(HEAD + DEFENSES_BY_LEVEL)
    code, _, err = run("figure", "reconstructions", str(suite), "--format", "svg")
    assert code == 2
    assert "reconstructions are drawn as PNG with their title" in err
