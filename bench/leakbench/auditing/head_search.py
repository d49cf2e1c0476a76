"""The split of a model where the user names none: before its last chain of linear layers."""

from __future__ import annotations

from torch import fx, nn

from leakbench.attacks.linear_layers.activations import activation_of
from leakbench.base.errors import UsageError


def head_input(module: fx.GraphModule) -> fx.Node:
    """Return the node that the last chain of linear layers reads, the deep feature.

    The chain ends with the logits: linear layers with biases that are trained, and activations
    between them, each of which reads nothing but the one before. Attacks on linear layers need
    such a head.

    Args:
        module: a graph of layers.

    Raises:
        UsageError: the logits are not the output of such a layer.
    """
    output = next(node for node in module.graph.nodes if node.op == "output")
    last = output.args[0]
    trained = any(parameter.requires_grad for parameter in module.parameters())
    found = None
    expected: tuple[str, ...] = ("linear",)
    reader, node = output, last
    while isinstance(node, fx.Node) and set(node.users) == {reader}:
        kind = _kind(module, node, trained)
        if kind not in expected:
            break
        if kind == "linear":
            found = node
        expected = ("activation",) if kind == "linear" else ("linear",)
        reader, node = node, node.args[0]
    if found is None:
        raise UsageError(
            "no split was found: the model's logits are not the output of a linear layer with a "
            "bias that clients train; name the submodule after which the head begins as split"
        )
    feature = found.args[0]
    assert isinstance(feature, fx.Node)
    return feature


def _kind(module: fx.GraphModule, node: fx.Node, trained: bool) -> str:
    """Return what a node is: `linear`, `activation`, or nothing that can be in a chain.

    Args:
        trained: whether clients train any parameter; if not, all count as trained.
    """
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if layer is None or len(node.args) != 1 or node.kwargs:
        return ""
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        both = layer.weight.requires_grad and layer.bias.requires_grad
        return "linear" if both or not trained else ""
    return "activation" if activation_of(layer) is not None else ""
