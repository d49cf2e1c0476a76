"""Writing a site into a folder, without touching other files in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from leakbench.base.errors import UsageError
from leakbench.base.files import replacing

MARKER = "leakbench-site.json"
"""The file that lists which files of a folder belong to the site."""


def write_site(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a site, replacing an earlier one; other files in the folder are kept.

    Args:
        folder: empty, missing, or one that holds a site of leakbench's.
        files: path in the folder → content.

    Raises:
        UsageError: it holds other files, or cannot be written to.
    """
    folder = folder.resolve()
    before = files_of_site(folder)
    # Written first, so that a site that was written in part is recognised as one.
    _write(folder / MARKER, _marker({*before, *files}))
    for path, content in files.items():
        _write(folder / path, content)
    for path in before - set(files):
        (folder / path).unlink(missing_ok=True)
    _write(folder / MARKER, _marker(set(files)))


def files_of_site(folder: Path) -> set[str]:
    """Return the files of the site that a folder holds; none if it is empty or missing.

    Raises:
        UsageError: it holds something other than a site of leakbench's, or is no folder.
    """
    # A path such as `new/..` exists before `new` does.
    folder = folder.resolve()
    marker = folder / MARKER
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder; name with --site one that is, or a path that does not exist"
        )
    if not any(folder.iterdir()):
        return set()
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        named = {str(path) for path in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} is not empty and holds no site of leakbench's ({MARKER} is missing or "
            f"cannot be read); name an empty folder with --site"
        ) from None
    return {path for path in named if _is_inside(path)}


def _is_inside(path: str) -> bool:
    """Whether a path of a marker, which may have been edited, stays inside the folder."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and path != MARKER


def _marker(files: set[str]) -> bytes:
    content = {"made_by": "leakbench publish", "files": sorted(files)}
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
