"""A model's graph split into feature extractor and classifier, f_n and f_c."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from leakbench.auditing.tracing import TracedModel
from leakbench.base.errors import UsageError

SCALE = "_pixel_scale"
"""The submodule that scales pixels, in a split model."""


def deep_feature_node(traced: TracedModel, images: Tensor, split: str) -> fx.Node:
    """Return the deep feature: the input of the head's first layer with weights, flattened.

    Layers without parameters that follow the split and read nothing else (activations, pooling,
    flattening) count as before it.

    Raises:
        UsageError: it is not a tensor with one row for each individual.
    """
    values = _values(traced.module, images)
    feature = traced.feature
    while (following := _only_reader(traced.module, feature, values)) is not None:
        feature = following
    value = values[feature]
    if not isinstance(value, Tensor) or len(value) != len(images):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"the output of {split!r} must be a tensor with one row for each individual, but of "
            f"{len(images)} it is {shape}; split after another submodule"
        )
    if value.ndim == 2:
        return feature
    graph, module = traced.module.graph, traced.module
    module.add_submodule("_flat", nn.Flatten())
    module.add_submodule("_unflat", nn.Unflatten(1, value.shape[1:]))
    with graph.inserting_after(feature):
        flat = graph.call_module("_flat", (feature,))
    with graph.inserting_after(flat):
        back = graph.call_module("_unflat", (flat,))
    feature.replace_all_uses_with(back, delete_user_cb=lambda user: user not in (flat, back))
    return flat


def _values(module: fx.GraphModule, images: Tensor) -> dict[fx.Node, Any]:
    """Return the output of every node for some images."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Recorder(module).run(images)
    return values


def _only_reader(
    module: fx.GraphModule, feature: fx.Node, values: Mapping[fx.Node, Any]
) -> fx.Node | None:
    """Return the only node that reads the feature, if it has no weights and reads nothing else."""
    readers = [user for user in feature.users if isinstance(values.get(user), Tensor)]
    if len(readers) != 1 or readers[0].op in ("output", "get_attr"):
        return None
    (reader,) = readers
    alone = all(n is feature or _is_batch_size(n) for n in reader.all_input_nodes)
    if reader.op == "call_module":
        alone = alone and not list(module.get_submodule(str(reader.target)).parameters())
    return reader if alone and len(values[reader]) == len(values[feature]) else None


def split_graph(
    module: fx.GraphModule, split_node: fx.Node, scale: nn.Module | None, split: str
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return f_n and f_c as separate modules, which share the model's layers."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    before = _ancestors(split_node)
    first, last = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def counted(node: fx.Node) -> fx.Node:
        """Return the copy of a node before the split; read the batch size from the images."""
        if node not in copies:
            copies[node] = first.call_method("size", (copies[images], 0))
        return copies[node]

    images = next(node for node in module.graph.nodes if node.op == "placeholder")
    for node in module.graph.nodes:
        if node in before:
            copies[node] = first.node_copy(node, counted)
            if node is images and scale is not None:
                copies[node] = first.call_module(SCALE, (copies[node],))
    first.output(copies[split_node])
    feature = last.placeholder("feature")
    heads: dict[fx.Node, fx.Node] = {split_node: feature}

    def argument(node: fx.Node) -> fx.Node:
        if node not in heads:
            if node.op == "get_attr":
                heads[node] = last.get_attr(str(node.target))
            elif _is_batch_size(node):
                heads[node] = last.call_method("size", (feature, 0))
            else:
                raise UsageError(
                    f"the head reads {node.name!r}, which is computed before the split {split!r}, "
                    f"besides the deep feature; split where all data pass through one submodule"
                )
        return heads[node]

    needed = _ancestors(output)
    for node in module.graph.nodes:
        if node in needed and node not in before and node.op not in ("output", "get_attr"):
            heads[node] = last.node_copy(node, argument)
    result = output.args[0]
    assert isinstance(result, fx.Node)
    last.output(argument(result))
    if scale is not None:
        module.add_submodule(SCALE, scale)
    return fx.GraphModule(module, first), fx.GraphModule(module, last)


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """Return a node and all that it is computed from, except for the batch size."""
    found, ahead = {node}, [node]
    while ahead:
        for other in ahead.pop().all_input_nodes:
            if other not in found and not _is_batch_size(other):
                found.add(other)
                ahead.append(other)
    return found


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the batch size, which is the same before the split and after it."""
    if node.target in ("size", torch.ops.aten.sym_size.int):
        return bool(node.args[1:] == (0,))
    if node.target is operator.getitem and node.args[1:] == (0,):
        shape = node.args[0]
        whole = ("size", 1), (getattr, 2)
        if isinstance(shape, fx.Node) and (shape.target, len(shape.args)) in whole:
            return bool(shape.target == "size" or shape.args[1] == "shape")
    return False
