"""The table of well-known models in the documentation has the rows that its script prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "bench" / "docs" / "pages" / "audit.md"


def cells(row: str) -> list[str]:
    """The cells of a row, without the seconds."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")][:-1]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        "tabular MLP",
        "token classifier",
        "MobileNetV3-Small",
        "ResNet-18",
        "EfficientNet-B0",
        "ViT-B/16",
    ],
)
def test_the_page_has_the_row_of_a_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "examples"))
    monkeypatch.delitem(sys.modules, "known_models", raising=False)
    import known_models

    written = re.search(rf"^\| {name} \|.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert written is not None
    found = cells(known_models.row(name, None))
    assert found == cells(written[0])
    assert found[5] == "0", "false certificates"
