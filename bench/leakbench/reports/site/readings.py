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

    What follows its first paragraph is folded, so that the tables are on the first screens.
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
    ends = [number for number, token in enumerate(tokens, start=1) if _ends_block(token)]
    texts = [number for number in ends if tokens[number - 1].type == "paragraph_close"]
    if not texts or len(ends) - ends.index(texts[0]) <= SHORT:
        return Markup(reader.renderer.render(tokens, reader.options, {}))
    first, rest = (
        Markup(reader.renderer.render(part, reader.options, {}))
        for part in (tokens[: texts[0]], tokens[texts[0] :])
    )
    return first + FOLDED.format(rest)


SHORT = 2
"""Blocks, such as paragraphs and lists, that are not folded."""

FOLDED = Markup("<details>\n<summary>The whole reading</summary>\n{}</details>\n")


def _ends_block(token: Token) -> bool:
    """Whether a token is the last of a block that is in no other."""
    return token.level == 0 and token.nesting <= 0


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
