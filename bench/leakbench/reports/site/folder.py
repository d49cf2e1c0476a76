"""Writing a site into a folder, without touching other files in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from leakbench.base.errors import UsageError
from leakbench.base.files import read_json, replacing

MARKER = "leakbench-site.json"
"""The file that lists which files of a folder belong to the site."""

Content = Callable[[], bytes]
"""Makes the content of a file."""


def write_site(folder: Path, files: Mapping[str, Content]) -> None:
    """Write a site, replacing an earlier one; other files in the folder are kept.

    Args:
        folder: empty, missing, or one that holds a site of leakbench's.
        files: path in the folder → what makes its content, one at a time: together the pages of
            many records may be larger than the memory.

    Raises:
        UsageError: it holds other files, leads elsewhere by a link, or cannot be written to.
    """
    folder = folder.resolve()
    before = files_of_site(folder)
    _refuse_links(folder, files)
    # Written first, so that a site that was written in part is recognised as one.
    _write(folder / MARKER, _marker({*before, *files}))
    for path, content in files.items():
        _write(folder / path, content())
    for path in before - set(files):
        _remove(folder, path)
    _write(folder / MARKER, _marker(set(files)))


def files_of_site(folder: Path) -> set[str]:
    """Return the files of the site that a folder holds; none if it is empty or missing.

    Raises:
        UsageError: it holds something other than a site of leakbench's, or is no folder.
    """
    # A path such as `new/..` exists before `new` does.
    folder = folder.resolve()
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder; name with --site one that is, or a path that does not exist"
        )
    if not any(folder.iterdir()):
        return set()
    try:
        content = read_json(folder / MARKER)
        named = {str(path) for path in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} is not empty and holds no site of leakbench's ({MARKER} is missing or "
            f"cannot be read); name an empty folder with --site"
        ) from None
    return {path for path in named if _is_inside(folder, path)}


def _is_inside(folder: Path, path: str) -> bool:
    """Whether a path of a marker, which may have been edited, stays inside the folder.

    Args:
        folder: without symbolic links.
    """
    parts = PurePosixPath(path)
    if not parts.name or parts.is_absolute() or ".." in parts.parts or path == MARKER:
        return False
    try:
        os.lstat(folder / path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        # Too long, below a file, or with NUL: there can be no such file.
        return False
    return not _through_link(folder, path)


def _through_link(folder: Path, path: str) -> bool:
    """Whether a symbolic link is on the way to a file; the file itself may be one."""
    above = PurePosixPath(path).parents
    return any((folder / each).is_symlink() for each in above if each.name)


def _refuse_links(folder: Path, files: Iterable[str]) -> None:
    for path in files:
        if _through_link(folder, path):
            raise UsageError(
                f"the way to {folder / path} leads through a symbolic link, so that the site would "
                f"be written elsewhere; remove the link, or name another folder with --site"
            )


def _remove(folder: Path, path: str) -> None:
    """Delete a file of an earlier site; a link itself, not what it leads to, and never a folder."""
    file = folder / path
    if not _through_link(folder, path) and (file.is_symlink() or file.is_file()):
        file.unlink(missing_ok=True)


def _marker(files: set[str]) -> bytes:
    content = {"made_by": "leakbench publish", "files": sorted(files)}
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
