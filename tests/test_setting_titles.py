"""Titles of settings name in what the settings differ, and thousands take linear time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from counting import lines_run, more_than_linear
from leakbench.experiments.cell import Cell
from leakbench.reports.setting_titles import setting_titles
from many_records import many


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return next(many(tmp_path_factory.mktemp("many"), 1)).cell


def titles(cells: Sequence[Cell]) -> list[str]:
    return setting_titles(cells, {"attack", "attack_parameters", "grant"})


def test_of_parameters_those_are_named_that_differ(cell: Cell) -> None:
    tables: list[dict[str, object]] = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1}]
    cells = [cell.model_copy(update={"model_parameters": of, "rounds": 1}) for of in tables]
    cells[0] = cells[0].model_copy(update={"rounds": 2})
    name = f"synthetic faces, {cell.model}"
    assert titles(cells) == [
        f"{name}, b = 2, 2 rounds",
        f"{name}, b = 3, 1 round",
        f"{name}, , 1 round",
    ]


@pytest.mark.parametrize("field", ["seed", "main_task", "model_parameters"])
def test_titles_take_linear_time(cell: Cell, field: str) -> None:
    def of(place: int) -> object:
        if field == "model_parameters":
            return {"width": place}
        return f"task{place}" if field == "main_task" else place

    cells = [cell.model_copy(update={field: of(place)}) for place in range(128)]
    # First, since texts of parameters are kept.
    assert len(set(titles(cells))) == len(cells)
    counts = [lines_run(partial(titles, cells[:size])) for size in (32, 64, 128)]
    assert more_than_linear(counts) == {}
