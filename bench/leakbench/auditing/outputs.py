"""Whether the files of a report can be written, checked before the work whose result they hold."""

from __future__ import annotations

import os
from pathlib import Path

from leakbench.base.errors import UsageError


def check_writable(out: Path, sarif: Path | None) -> None:
    """Refuse places that a report cannot be written to. Nothing is created.

    Raises:
        UsageError: one is not to be written to; the message names the option.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder for audit.html and audit.json")
    for name in ("audit.html", "audit.json"):
        if (out / name).is_dir():
            raise UsageError(f"--out {out} holds a folder {name}; name another folder")
    _check_folder("--out", out)
    if sarif is not None:
        if sarif.is_dir():
            raise UsageError(f"--sarif {sarif} is a folder; name a file")
        _check_folder("--sarif", sarif.parent)


def _check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that can neither be written to nor made."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise UsageError(f"{option}: {existing} is a file, and no folder can be in it")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {existing} cannot be written to; name another place")
