"""Files with a few mistakes: what editors, full disks, other tools and attackers make of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypothesis import strategies as st

ODD = (
    *(b"", b"-1", b"0", b"1", b"1e999", b"NaN", b"Infinity", b"-0.0", b"0.5", b"true", b"null"),
    *(b'""', b'"', b"[]", b"{}", b"[[[[", b",", b"=", b"\n", b"\r\n", b"\t", b"\0", b"\xff"),
    *(b"../../x", b"/etc/passwd", b"\xef\xbb\xbf", "é".encode("latin-1"), "†\u202e".encode()),
    *(b"9" * 5_000, b"[" * 5_000, b"a" * 300, b"x\0y", b"1_000", b" 7 ", b"7.0"),
)
"""What a value may be replaced by."""

VALUE = re.compile(rb"[\w.+-]+")


@dataclass(frozen=True)
class Mistake:
    """A mistake in a file.

    Attributes:
        kind: what is done.
        place: where, as a share of the file.
        length: of the piece that it concerns, in bytes.
        odd: what comes in.
    """

    kind: str
    place: float
    length: int
    odd: bytes

    def made_in(self, content: bytes) -> bytes:
        """Return the content with the mistake."""
        start = int(self.place * len(content))
        end = min(len(content), start + self.length)
        piece = content[start:end]
        match self.kind:
            case "value":
                values = list(VALUE.finditer(content))
                if not values:
                    return self.odd
                chosen = values[int(self.place * len(values))]
                return content[: chosen.start()] + self.odd + content[chosen.end() :]
            case "delete":
                return content[:start] + content[end:]
            case "repeat":
                return content[:end] + piece + content[end:]
            case "insert":
                return content[:start] + self.odd + content[start:]
            case "flip":
                return (
                    content[:start]
                    + bytes(each ^ 1 << self.length % 8 for each in piece[:1])
                    + (content[start + 1 :])
                )
            case "cut":
                return content[:start]
            case "line":
                lines = content.splitlines(keepends=True)
                number = int(self.place * len(lines))
                return b"".join(
                    [*lines[: number + 1], *lines[number : number + 1], *lines[number + 1 :]]
                )
        raise AssertionError(self.kind)


mistakes = st.lists(
    st.builds(
        Mistake,
        st.sampled_from(
            ["value", "value", "value", "delete", "repeat", "insert", "flip", "cut", "line"]
        ),
        st.integers(0, 9999).map(lambda part: part / 10_000),
        st.integers(1, 40),
        st.sampled_from(ODD),
    ),
    min_size=1,
    max_size=3,
)
"""One to three mistakes, most of them of a single value."""


def with_mistakes(content: bytes, made: list[Mistake]) -> bytes:
    """Return a file's content with mistakes, one after the other."""
    for mistake in made:
        content = mistake.made_in(content)
    return content
