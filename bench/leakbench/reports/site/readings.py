"""A suite's reading, which is Markdown, as HTML of its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from leakbench.reports.site.figure_gallery import FigureView


def reading_html(markdown: str, paths: Mapping[str, str], figures: Sequence[FigureView]) -> Markup:
    """Return a reading as HTML, in which HTML of its own is text.

    Links lead to pages of the site and to `https:` addresses; other links are plain text. Images
    are those of the site's figures; others are left out.

    Args:
        paths: suite → its page, for links to `SUITE.md`.
        figures: of the site.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    sources = {each.source.name: each.path for each in figures}
    tokens = reader.parse(markdown)
    for token in tokens:
        if token.children is not None:
            token.children = list(_changed(token.children, paths, sources))
    return Markup(reader.renderer.render(tokens, reader.options, {}))


def _changed(
    tokens: Sequence[Token], paths: Mapping[str, str], sources: Mapping[str, str]
) -> Iterator[Token]:
    plain = False
    for token in tokens:
        if token.type == "image":
            name = PurePosixPath(str(token.attrs.get("src", ""))).name
            if name not in sources:
                continue
            token.attrs = {**token.attrs, "src": sources[name], "loading": "lazy"}
        elif token.type == "link_open":
            address = _address(str(token.attrs.get("href", "")), paths)
            plain = not address
            token.attrs = {"href": address}
        if plain and token.type in ("link_open", "link_close"):
            continue
        yield token


def _address(written: str, paths: Mapping[str, str]) -> str:
    """Return where a link leads on the site; empty if it leads nowhere there."""
    if written.startswith("https://"):
        return written
    path = PurePosixPath(written.partition("#")[0])
    return paths.get(path.stem, "") if path.suffix == ".md" else ""
