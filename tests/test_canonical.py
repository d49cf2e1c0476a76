"""Keys are hashes of canonical JSON, however fast it is made."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

import pytest

from leakbench.base import canonical as module
from leakbench.base.canonical import canonical, canonical_object, exact
from leakbench.base.plugins import PluginSpec, SharedPlugins
from leakbench.base.registry import DEFENSES
from leakbench.base.seeds import digest
from leakbench.experiments.cell import LATER_FIELDS, SCHEMA, SCHEMAS, Cell
from test_cell_keys import OTHER


class Named(StrEnum):
    """A text that is of no exact type."""

    ONE = "one"


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"b": 1, "a": 2},
    {"one": 1, "float": 1.0, "true": True},
    {"x": -0.0, "y": 1e-300, "z": 10**30},
    {"infinite": math.inf, "none": math.nan},
    {"σ": 'Ä\n"\\\u2028', "empty": ""},
    {"defenses": [{"name": "gaussian", "sigma": 0.1}, {"name": "sparsify"}]},
    {"tuple": (1, ("a", None)), "list": [[], {}]},
    {"enum": Named.ONE, "inside": [Named.ONE]},
]


def slowly(cell: Cell, version: int) -> str:
    """Return a cell's key as it is defined: the hash of all that pydantic writes of it."""
    content = cell.model_dump(mode="json") | {"grant": sorted(cell.grant)}
    for field, value in LATER_FIELDS.items():
        if content[field] == value:
            del content[field]
    return digest("cell", [*SCHEMAS[SCHEMA], version], content)[:24]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_a_key_is_the_hash_of_all_that_a_cell_holds(parameters: dict[str, Any]) -> None:
    cell = Cell(
        dataset="synthetic",
        properties=("gender", "Ä"),
        main_task="hat",
        attack="ig",
        attack_parameters=parameters,
        batch_size=8,
    )
    for changed in ({}, OTHER, {"defense_parameters": parameters, "momentum": -0.0}):
        other = cell.model_copy(update=changed)
        for _ in range(2):  # Made, and then known.
            assert other.key(3) == slowly(other, 3)


def test_equal_values_of_different_types_are_told_apart() -> None:
    values = [1, 1.0, True, "1", 0, 0.0, -0.0, False, None, [], (), {}, {"a": 1}, {"a": 1.0}]
    assert len({exact(value) for value in values}) == len(values)
    assert exact(["a", 0.5, {"b": None}]) == exact(json.loads('["a", 0.5, {"b": null}]'))
    assert exact(Named.ONE) is None
    assert exact(object()) is None


def test_a_text_that_is_made_twice_is_the_same_object_or_not() -> None:
    """Whether two parts are one object changes no bytes."""
    text = "".join(["gender", "!"])
    assert exact([text, text]) == exact(["".join(["gender", "!"]), "".join(["gender", "!"])])


def test_an_object_is_as_it_is_written_at_once() -> None:
    for parameters in PARAMETERS:
        plain = {key: value for key, value in parameters.items() if exact(value) is not None}
        if any(isinstance(each, float) and not math.isfinite(each) for each in plain.values()):
            continue  # pydantic writes them as null.
        fields = {"a": plain, "b": 0.1, "c": "ü", "d": None, "e": False, "f": 7}
        assert canonical_object(sorted(fields.items())) == canonical(fields)


def test_a_table_of_parameters_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []
    write = module._written

    def noted(value: Any) -> str:
        encoded.append(value)
        return write(value)

    monkeypatch.setattr(module, "_written", noted)
    table = {"of this test only": 0.25}
    for seed in range(5):
        canonical_object([("parameters", dict(table)), ("seed", seed)])
    assert encoded == [table]


def test_plugins_with_equal_parameters_of_another_type_are_not_shared() -> None:
    plugins = SharedPlugins()
    first, _ = plugins.get(DEFENSES, PluginSpec("gaussian", {"sigma": 1.0}))
    again, _ = plugins.get(DEFENSES, PluginSpec("gaussian", {"sigma": 1.0}))
    other, _ = plugins.get(DEFENSES, PluginSpec("gaussian", {"sigma": 1}))
    assert first is again
    assert first is not other
