"""Temporary files that killed processes have left."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

OLD = 3600.0
"""Seconds without a change after which no process still writes a temporary file."""

TEMPORARY = re.compile(r"\.[^/]+\.(json|md|npy|safetensors|crc32)\.[a-z0-9_]{8}")
"""The names that `leakbench.base.files.replacing` gives."""

FOREIGN = frozenset({"compiled"})
"""Folders of the cache in which another program writes."""


def remove_leftovers(folder: Path, depth: int = 0) -> list[Path]:
    """Delete the old temporary files of a folder; return them.

    A process that is killed while it writes `x.npy` leaves `.x.npy.abcd1234`, which may be large.
    Links, newer files, and what cannot be deleted are left alone.

    Args:
        depth: levels of folders below it that are searched too.
    """
    removed: list[Path] = []
    limit = time.time() - OLD
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return removed
    for entry in found:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                if depth and entry.name not in FOREIGN:
                    removed += remove_leftovers(Path(entry.path), depth - 1)
            elif (
                TEMPORARY.fullmatch(entry.name)
                and entry.is_file(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_mtime < limit
            ):
                Path(entry.path).unlink()
                removed.append(Path(entry.path))
    return removed
