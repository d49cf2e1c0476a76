"""Records on disk, edited by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def path_of(folder: Path, attack: str) -> Path:
    (path,) = (
        path
        for path in (folder / "records").glob("*.json")
        if json.loads(path.read_text())["cell"]["attack"] == attack
    )
    return path


def edit(path: Path, where: str, value: Any) -> None:
    """Change one value of a record by hand."""
    content = json.loads(path.read_text())
    *keys, last = where.split("/")
    table = content
    for key in keys:
        table = table[key]
    assert last in table
    table[last] = value
    path.write_text(json.dumps(content))


def numbers_in(tree: Any, path: str = "") -> list[str]:
    """The places of all numbers of a record."""
    if isinstance(tree, dict):
        return [each for key, part in tree.items() for each in numbers_in(part, f"{path}/{key}")]
    is_number = isinstance(tree, int | float) and not isinstance(tree, bool)
    return [path.removeprefix("/")] if is_number else []
