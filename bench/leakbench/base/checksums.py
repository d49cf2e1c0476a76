"""Checksums of cached files: a CRC-32 in a small file beside each, `FILE.crc32`.

CRC-32 detects every flipped bit and every shorter or empty file; it is no protection against an
attacker. It reads about 3 GB/s, so that hundreds of MB of images cost a tenth of a second.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from leakbench.base.files import replacing

CHUNK = 2**22
"""Bytes read at once."""


def checksum(file: Path) -> str:
    """Return the CRC-32 of a file's content, 8 hexadecimal digits."""
    found, buffer = 0, bytearray(CHUNK)
    with file.open("rb", buffering=0) as stream:
        while length := stream.readinto(buffer):
            found = zlib.crc32(memoryview(buffer)[:length], found)
    return f"{found:08x}"


def write_checksum(file: Path, content_of: Path) -> None:
    """Write the checksum that `file` has once it holds the content of another.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    with replacing(_beside(file)) as temporary:
        temporary.write_text(checksum(content_of), encoding="ascii")


def has_checksum(file: Path) -> bool:
    """Whether a checksum of this file was written; earlier versions wrote none."""
    return _beside(file).exists()


_verified: dict[Path, tuple[int, int, int]] = {}
"""File → its inode, size and time of change when this process verified it."""


def matches_checksum(file: Path) -> bool:
    """Whether a file has the content that its checksum was computed from; true without a checksum.

    A process reads a file for this once, and again if the file has been replaced since.

    Raises:
        FileNotFoundError: there is no such file.
    """
    state = _state(file)
    if _verified.get(file) == state:
        return True
    try:
        expected = _beside(file).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return True
    if checksum(file) != expected:
        return False
    _verified[file] = state
    return True


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.crc32")
