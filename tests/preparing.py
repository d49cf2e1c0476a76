"""Prepared setups, each made once, in which a plugin can be run."""

from __future__ import annotations

from functools import cache

from bench.cells import Setup
from bench.preparation import Prepared, prepare
from bench.registry import ATTACKS


def prepared_for(attack: str, setup: Setup, device: str) -> Prepared:
    """A setup changed as the attack needs it."""
    changed = {**setup.model_dump(), **ATTACKS.get(attack).example_setup}
    return _prepared(Setup.model_validate(changed).model_dump_json(), device)


@cache
def _prepared(setup: str, device: str) -> Prepared:
    return prepare(Setup.model_validate_json(setup), None, device, lambda message: None)
