"""Canonical JSON: one text for each content, whatever the order in which it was written."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any

from pydantic import TypeAdapter

canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
"""Return the canonical JSON of a value that JSON can hold."""


def canonical_object(fields: Iterable[tuple[str, Any]]) -> str:
    r"""Return the canonical JSON of an object, as pydantic writes its values.

    Thousands of cells hold the same tables of parameters, so each of these is encoded once.

    Args:
        fields: name, of ASCII letters and `_`, and value, sorted by name.

    >>> canonical_object([("a", 0.1), ("b", {"y": (1, "σ"), "x": None})])
    '{"a":0.1,"b":{"x":null,"y":[1,"\\u03c3"]}}'
    """
    return "{" + ",".join([f'"{name}":{_text(value)}' for name, value in fields]) + "}"


def exact(value: Any) -> bytes | None:
    """Return bytes that are equal where values are equal in type as well, unlike 1, 1.0 and true.

    Much faster than text. None if the value holds what JSON does not have.
    """
    try:
        # Version 2, since later ones depend on which objects are the same one.
        return marshal.dumps(value, 2)
    except ValueError:
        return None


def by_content(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a function that makes its texts once for each content, types included."""

    @lru_cache(maxsize=4096)
    def of_exact(content: bytes) -> str:
        return function(marshal.loads(content))

    def kept(value: Any) -> str:
        content = exact(value)
        return function(value) if content is None else of_exact(content)

    return kept


def _text(value: Any) -> str:
    """Return the canonical JSON of a value; of exact types only, whose subclasses may differ."""
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    content = exact(value)
    return _written(value) if content is None else _of_exact(content)


@lru_cache(maxsize=4096)
def _of_exact(content: bytes) -> str:
    return _written(marshal.loads(content))


def _written(value: Any) -> str:
    return canonical(ANY.dump_python(value, mode="json"))


ANY: TypeAdapter[Any] = TypeAdapter(Any)
