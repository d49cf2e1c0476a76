"""In-place operations of a graph, rewritten so that later readers see what they changed."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload


def without_in_place(module: fx.GraphModule) -> None:
    """Make a graph compute nothing in place, and no sparse gradient; its outputs stay the same.

    A node that changes its input becomes one that returns the changed value, and all later readers
    of that input read the node instead. Differentiating twice needs the values from before a
    change. Views of a tensor that is changed afterwards are not followed: the caller has to compare
    the outputs.
    """
    nodes = list(module.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    for node in nodes:
        changed = node.args[0] if node.args and _made_plain(module, node) else None
        if isinstance(changed, fx.Node):
            for later in [user for user in changed.users if place[user] > place[node]]:
                later.replace_input_with(changed, node)
    for part in module.modules():
        compute_apart(part)
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = False  # Attacks compute with dense gradients, which are the same.
    module.recompile()


def compute_apart(layer: nn.Module) -> None:
    """Let a layer, such as `nn.ReLU(inplace=True)`, leave its input as it is."""
    if getattr(layer, "inplace", False) is True:
        layer.inplace = False  # type: ignore[assignment]


def _made_plain(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes its first argument; from now on it does not."""
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _plain_by_name(node, Tensor)
    if node.op != "call_function":
        return False
    if node.target in OPERATORS:
        node.target = OPERATORS[node.target]
        return True
    if isinstance(node.target, OpOverload):
        return _plain_overload(node, node.target)
    return _plain_by_name(node, torch) or _plain_by_flag(node)


def _plain_by_name(node: fx.Node, owner: Any) -> bool:
    """Replace `relu_` by `relu`; return whether the node has such a name."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return False
    plain = getattr(owner, name[:-1], None)
    if callable(plain):
        node.target = name[:-1] if node.op == "call_method" else plain
    return True


def _plain_overload(node: fx.Node, target: OpOverload) -> bool:
    name = target._schema.name.partition("::")[2]
    if not name.endswith("_") or name.endswith("__"):
        return False
    packet = getattr(torch.ops.aten, name[:-1], None)
    if packet is not None and target._overloadname in packet.overloads():
        node.target = getattr(packet, target._overloadname)
    return True


def _plain_by_flag(node: fx.Node) -> bool:
    """Replace `inplace=True` by False; return whether it was given."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    if bound.arguments.get("inplace") is not True:
        return False
    bound.arguments["inplace"] = False
    node.args, node.kwargs = bound.args, bound.kwargs
    return True


OPERATORS: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""Operators of augmented assignment → those that make a new value."""
