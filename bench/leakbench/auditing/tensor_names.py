"""The tensors of an update by the names of the user's parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from leakbench.auditing.copied_model import WRAPPERS
from leakbench.base.errors import UsageError


def named_tensors(
    tensors: Any, update: str, module: nn.Module, trained: Sequence[str]
) -> dict[str, Any]:
    """Return the tensors of an update by name; NumPy arrays become tensors.

    Wrappers' prefixes are left out. Where the model has one tensor under two names, and the update
    has one of them, it has both. A list is in the order of the model's state, as Flower's clients
    send it, or of the parameters that are trained.

    Args:
        update: its name, for messages.
        module: the user's model.
        trained: the names of the parameters that clients train.

    Raises:
        UsageError: a list has another length, or the update is neither list nor mapping.
    """
    if isinstance(tensors, Mapping):
        named = {str(name): value for name, value in tensors.items()}
    elif isinstance(tensors, list | tuple):
        named = _in_order(tensors, update, module, trained)
    else:
        raise UsageError(
            f"update {update!r} is of type {type(tensors).__name__}; give tensors by the names of "
            f"the model's parameters, or a list in the model's order"
        )
    named = without_wrappers(named, set(trained))
    for names in shared_names(module):
        present = next((name for name in names if name in named), None)
        if present is not None:
            named |= {name: named[present] for name in names if name not in named}
    return {name: _as_tensor(value) for name, value in named.items()}


def without_wrappers(tensors: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return tensors by names without the prefixes of wrappers, however many there are.

    >>> without_wrappers({"_orig_mod.module.a": 1}, {"a"})
    {'a': 1}
    """
    found = dict(tensors)
    while found and not set(known) & set(found):
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in found)), None)
        if wrapper is None:
            break
        found = {name.removeprefix(wrapper): value for name, value in found.items()}
    return found


def shared_names(module: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several, such as tied weights."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def _in_order(
    tensors: Sequence[Any], update: str, module: nn.Module, trained: Sequence[str]
) -> dict[str, Any]:
    parameters = [name for name, _ in module.named_parameters()]
    orders = {
        "tensors in its state": list(module.state_dict()),
        "parameters": parameters,
        "trained parameters": [name for name in parameters if name in set(trained)],
    }
    for names in orders.values():
        if len(names) == len(tensors):
            return dict(zip(names, tensors, strict=True))
    counts = ", ".join(f"{len(names)} {what}" for what, names in orders.items())
    raise UsageError(
        f"update {update!r} is a list of {len(tensors)}, but the model has {counts}; give one for "
        f"each in this order, or tensors by name"
    )


def _as_tensor(value: Any) -> Any:
    """Return a NumPy array as a tensor; anything else as it is, to be checked later."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        return value
