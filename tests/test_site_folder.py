"""What a site's folder may hold, whatever its marker says: nothing outside it is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from leakbench.base.errors import UsageError
from leakbench.reports.site.figure_gallery import gallery
from leakbench.reports.site.folder import MARKER, files_of_site, write_site

PAGES = dict.fromkeys(("index.html", "figures/a.png"), lambda: b"new")


def marked(folder: Path, *files: object) -> Path:
    """Make a site's folder whose marker lists these files."""
    folder.mkdir()
    (folder / MARKER).write_text(json.dumps({"files": files}))
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "precious.txt"
    path.parent.mkdir()
    path.write_text("mine")
    return path


def test_a_marker_deletes_nothing_behind_a_link(tmp_path: Path, precious: Path) -> None:
    folder = marked(tmp_path / "site", "link/precious.txt", "a/link/precious.txt", "leaf.txt")
    (folder / "a").mkdir()
    for link in (folder / "link", folder / "a" / "link"):
        link.symlink_to(precious.parent)
    (folder / "leaf.txt").symlink_to(precious)
    write_site(folder, PAGES)
    assert precious.read_text() == "mine"
    assert (folder / "link").is_symlink()
    # The site's own file, which somebody made a link: only the link goes.
    assert not (folder / "leaf.txt").is_symlink()


def test_a_site_is_not_written_through_a_link(tmp_path: Path, precious: Path) -> None:
    folder = marked(tmp_path / "site")
    (folder / "figures").symlink_to(precious.parent)
    with pytest.raises(UsageError, match=r"figures/a\.png leads through a symbolic link"):
        write_site(folder, PAGES)
    assert [path.name for path in precious.parent.iterdir()] == ["precious.txt"]
    assert not (folder / "index.html").exists()


def test_a_page_that_is_a_link_is_replaced_not_followed(tmp_path: Path, precious: Path) -> None:
    folder = marked(tmp_path / "site", "index.html")
    (folder / "index.html").symlink_to(precious)
    write_site(folder, PAGES)
    assert precious.read_text() == "mine"
    assert (folder / "index.html").read_text() == "new"


def test_names_of_a_marker_that_name_no_file_are_passed_over(tmp_path: Path) -> None:
    odd = ["a\0b", "x" * 300, "d", "d/loop/x", "", ".", "/", "\ud800", 3, None, ["d"], {"d": 1}]
    folder = marked(tmp_path / "site", *odd)
    (folder / "d").mkdir()
    (folder / "d" / "loop").symlink_to("loop")
    (folder / "d" / "kept").write_text("mine")
    write_site(folder, PAGES)
    assert (folder / "d" / "kept").read_text() == "mine"
    assert files_of_site(folder) == {*PAGES}


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "deep", "digits", "latin"])
def test_a_marker_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    marker = folder / MARKER
    if kind == "folder":
        marker.mkdir()
    elif kind == "fifo":
        os.mkfifo(marker)
    elif kind == "loop":
        marker.symlink_to(MARKER)
    else:
        text = {"deep": "[" * 100_000, "digits": "9" * 5_000, "latin": "é"}[kind]
        marker.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="holds no site of leakbench's"):
        files_of_site(folder)


def test_a_figure_that_is_no_file_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "quick-budget.png")
    (tmp_path / "quick-phase.png").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "quick-defense.png")
    found = gallery(tmp_path, ["quick"], False)
    assert [figure.path for figure in found.figures] == ["figures/quick-defense.png"]
    assert set(found.left_out) == {"quick-budget.png", "quick-phase.png"}
