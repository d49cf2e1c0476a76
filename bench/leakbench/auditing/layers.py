"""Functions of a graph replaced by the layers that do the same, which attacks recognise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from leakbench.base.errors import UsageError

aten = torch.ops.aten

DROPOUT_REMOVED = "dropout_removed"
"""Key of a graph's `meta`: whether functional dropout was left out."""


def functions_to_layers(module: fx.GraphModule, feature: fx.Node | None) -> fx.GraphModule:
    """Replace functions by layers that do the same; the parameters stay the same objects.

    Identities in evaluation mode are left out.

    Args:
        feature: a node that must stay, if any.

    Raises:
        UsageError: dropout is active, or the program normalises by the batch.
    """
    for node in list(module.graph.nodes):
        if node is not feature and _does_nothing(module, node):
            if node.target in DROPOUTS:
                module.meta[DROPOUT_REMOVED] = True
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            continue
        make = LAYERS.get(node.target) if node.op in ("call_function", "call_method") else None
        layer = make(module, node) if make is not None else None
        if layer is not None:
            name = _name(module, node)
            module.add_submodule(name, layer.eval())
            # Changed in place, so that references to the node stay valid.
            node.op, node.target = "call_module", name
            node.args, node.kwargs = (node.args[0],), {}
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _does_nothing(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Identity | _DropoutNd)
    if node.op != "call_function" or node.target not in DROPOUTS:
        return False
    given = [*node.args[1:], *node.kwargs.values()]
    if node.kwargs.get("training", given[1] if len(given) > 1 else False):
        raise UsageError(
            "dropout is active in the model's forward pass; export or give it in evaluation mode, "
            "`model.eval()`"
        )
    return True


def _tensor(module: fx.GraphModule, value: Any) -> Any:
    """Return the parameter or buffer that an argument refers to."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return None
    path, _, name = str(value.target).rpartition(".")
    return getattr(module.get_submodule(path), name)


def _linear(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    _, weight, bias = _arguments(node, ("input", "weight", "bias"))
    held, offset = _tensor(module, weight), _tensor(module, bias)
    if not isinstance(held, nn.Parameter) or (bias is not None and offset is None):
        return None
    with torch.device("meta"):
        layer = nn.Linear(held.shape[1], held.shape[0], bias=offset is not None)
    layer.weight = held
    if offset is not None:
        layer.bias = offset
    return layer


def _convolution(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    _, weight, bias, stride, padding, dilation, groups = _arguments(node, names)
    held, offset = _tensor(module, weight), _tensor(module, bias)
    if not isinstance(held, nn.Parameter) or (bias is not None and offset is None):
        return None

    def pair(value: Any, default: int) -> Any:
        if value is None or isinstance(value, str):
            return default if value is None else value
        both = [value] * 2 if isinstance(value, int) else list(value)
        return tuple(both * 2 if len(both) == 1 else both)

    with torch.device("meta"):
        layer = nn.Conv2d(
            held.shape[1] * (groups or 1),
            held.shape[0],
            (held.shape[2], held.shape[3]),
            stride=pair(stride, 1),
            padding=pair(padding, 0),
            dilation=pair(dilation, 1),
            groups=groups or 1,
            bias=offset is not None,
        )
    layer.weight = held
    if offset is not None:
        layer.bias = offset
    return layer


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    _, weight, bias, mean, variance, training, _, eps, *_ = node.args
    if training:
        raise UsageError(
            "the program normalises by the batch in every mode; export it in evaluation mode, "
            "`model.eval()`, and set mode train if clients normalise by the batch"
        )
    tensors = [_tensor(module, value) for value in (weight, bias, mean, variance)]
    kind = BATCH_NORMS.get(_rank(node.args[0]))
    if kind is None or any(tensor is None for tensor in tensors):
        return None
    with torch.device("meta"):
        layer = kind(len(tensors[0]), eps=eps)
    layer.weight, layer.bias, layer.running_mean, layer.running_var = tensors
    layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return layer


def _layer_norm(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    _, shape, weight, bias, eps = _arguments(node, names)
    held, offset = _tensor(module, weight), _tensor(module, bias)
    known = all(isinstance(size, int) for size in shape)
    if not known or not isinstance(held, nn.Parameter) or (bias is not None and offset is None):
        return None
    with torch.device("meta"):
        layer = nn.LayerNorm(
            tuple(shape), eps=LAYER_NORM_EPS if eps is None else eps, bias=offset is not None
        )
    layer.weight = held
    if offset is not None:
        layer.bias = offset
    return layer


LAYER_NORM_EPS = 1e-5
"""What PyTorch adds to the variance by default."""

BATCH_NORMS: Mapping[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
"""Dimensions of the input → the layer."""


def _rank(value: Any) -> int:
    """Return the number of dimensions of a node of a program; 0 where it is not known."""
    example = value.meta.get("val") if isinstance(value, fx.Node) else None
    return example.ndim if isinstance(example, Tensor) else 0


def _plain(kind: Callable[[], nn.Module]) -> Callable[[fx.GraphModule, fx.Node], nn.Module | None]:
    """Return what makes a layer of a function without further arguments."""

    def make(_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
        rest = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        return kind() if len(node.args) <= 2 and not rest and _only_in_place(node) else None

    return make


def _only_in_place(node: fx.Node) -> bool:
    """Whether the only further argument, if any, is the flag `inplace`."""
    return all(isinstance(argument, bool) for argument in node.args[1:])


def _gelu(_module: fx.GraphModule, node: fx.Node) -> nn.Module:
    return nn.GELU(str(node.kwargs.get("approximate", "none")))


def _leaky_relu(_module: fx.GraphModule, node: fx.Node) -> nn.Module:
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return nn.LeakyReLU(float(given))  # type: ignore[arg-type]


def _hardtanh(_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    _, low, high = _arguments(node, ("input", "min_val", "max_val"))
    low, high = -1.0 if low is None else low, 1.0 if high is None else high
    # ReLU6 is exported as this.
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(float(low), float(high))


def _prelu(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    held = _tensor(module, node.args[1]) if len(node.args) > 1 else None
    if not isinstance(held, nn.Parameter):
        return None
    with torch.device("meta"):
        layer = nn.PReLU(held.numel())
    layer.weight = held
    return layer


def _arguments(node: fx.Node, names: tuple[str, ...]) -> list[Any]:
    padded = [*node.args, *[None] * (len(names) - len(node.args))]
    return [node.kwargs.get(name, value) for name, value in zip(names, padded, strict=False)]


def _name(module: fx.GraphModule, node: fx.Node) -> str:
    """Return the path for a layer: that of its parameters, or of its module in the model."""
    for argument in node.args[1:]:
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            return _free(module, str(argument.target).rpartition(".")[0], node)
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return _free(module, paths[-1] if paths else "", node)


def _free(module: fx.GraphModule, path: str, node: fx.Node) -> str:
    """Return the path if it holds only parameters, otherwise the node's own name."""
    places = dict(module.named_modules())
    place = places.get(path)
    taken = place is not None and (list(place.children()) or type(place) is not nn.Module)
    return node.name if not path or taken else path


LAYERS: Mapping[Any, Callable[[fx.GraphModule, fx.Node], nn.Module | None]] = {
    **dict.fromkeys((functional.linear, aten.linear.default), _linear),
    **dict.fromkeys((functional.conv2d, torch.conv2d, aten.conv2d.default), _convolution),
    **dict.fromkeys((aten.batch_norm.default,), _batch_norm),
    **dict.fromkeys(
        (functional.relu, torch.relu, "relu", aten.relu.default, aten.relu_.default),
        _plain(nn.ReLU),
    ),
    **dict.fromkeys(
        (functional.layer_norm, torch.layer_norm, aten.layer_norm.default), _layer_norm
    ),
    **dict.fromkeys((functional.relu6, aten.relu6.default), _plain(nn.ReLU6)),
    **dict.fromkeys((aten.hardtanh.default, aten.hardtanh_.default), _hardtanh),
    **dict.fromkeys((functional.prelu, torch.prelu, aten.prelu.default), _prelu),
    **dict.fromkeys(
        (functional.hardswish, aten.hardswish.default, aten.hardswish_.default),
        _plain(nn.Hardswish),
    ),
    **dict.fromkeys((functional.tanh, torch.tanh, "tanh", aten.tanh.default), _plain(nn.Tanh)),
    **dict.fromkeys(
        (functional.sigmoid, torch.sigmoid, "sigmoid", aten.sigmoid.default), _plain(nn.Sigmoid)
    ),
    **dict.fromkeys((functional.silu, aten.silu.default, aten.silu_.default), _plain(nn.SiLU)),
    **dict.fromkeys((functional.gelu, aten.gelu.default), _gelu),
    **dict.fromkeys(
        (functional.leaky_relu, aten.leaky_relu.default, aten.leaky_relu_.default), _leaky_relu
    ),
}
"""Functions and methods → what makes the layer; it returns None where no layer does the same."""

DROPOUTS = {
    functional.dropout,
    functional.dropout2d,
    torch.dropout,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
}
