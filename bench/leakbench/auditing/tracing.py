"""The computation graph of a user's model, with the node after which its head begins."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.graph import CodeGen

from leakbench.auditing.layers import functions_to_layers
from leakbench.base.errors import UsageError


@dataclass(frozen=True)
class TracedModel:
    """A model as a graph of its modules.

    Attributes:
        module: the graph, from images to logits.
        feature: the node whose output is the deep feature.
    """

    module: fx.GraphModule
    feature: fx.Node


def trace_model(model: nn.Module | ExportedProgram, split: str, images: Tensor) -> TracedModel:
    """Return the graph of a model, with the output of a submodule marked in it.

    First all modules are traced; if that fails, only those that contain the split, and the others
    become single nodes; if that fails too, the model is exported by `torch.export`.

    Args:
        model: in evaluation mode.
        split: the submodule's name.
        images: an example batch, shape (n, channels, height, width).

    Raises:
        UsageError: there is no such submodule, it is not called exactly once, or the forward pass
            can be neither traced nor exported.
    """
    if isinstance(model, ExportedProgram):
        return _of_program(model, split)
    _check_split(split, [name for name, _ in model.named_modules() if name])
    for tracer in (_DeepTracer(split), _ShallowTracer(split)):
        try:
            graph = tracer.trace(model)
        except Exception as error:
            why = error
            continue
        calls = [node for node in graph.nodes if node.op == "call_module" and node.target == split]
        feature = _single(calls, split)
        return TracedModel(functions_to_layers(fx.GraphModule(model, graph), feature), feature)
    return _exported(model, split, images, why)


class _DeepTracer(fx.Tracer):
    """Traces all modules except PyTorch's own and the one after which the model is split."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split = split

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one node."""
        return module_qualified_name == self.split or super().is_leaf_module(
            m, module_qualified_name
        )


class _ShallowTracer(_DeepTracer):
    """Traces only the modules that contain the split."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        """Whether the module is one node."""
        return not self.split.startswith(f"{module_qualified_name}.")


def _exported(model: nn.Module, split: str, images: Tensor, why: Exception) -> TracedModel:
    batch = ({0: Dim("individuals")},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (images,), dynamic_shapes=batch)
    except Exception as error:
        first = " ".join(str(why).split())[:200]
        raise UsageError(
            f"the forward pass of {type(model).__name__} around {split!r} can be neither traced "
            f"({first}) nor exported by torch.export ({type(error).__name__}); move code "
            f"that depends on the values of tensors into submodules that do not contain the split"
        ) from error
    return _of_program(program, split)


def _of_program(program: ExportedProgram, split: str) -> TracedModel:
    """Return the graph of a program, whose operations remember the submodule they belong to."""
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        # Checks of the shapes that the program was exported for; the audit has messages of its own.
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    paths = {node: _paths(node) for node in module.graph.nodes}
    _check_split(split, sorted({path for of_node in paths.values() for path in of_node if path}))
    inside = {node for node, of_node in paths.items() if split in of_node}
    last = [node for node in inside if any(user not in inside for user in node.users)]
    feature = _single(last, split)
    # Take one input and return one output, not lists of them.
    module.graph.set_codegen(CodeGen())
    output = next(node for node in module.graph.nodes if node.op == "output")
    if isinstance(output.args[0], tuple | list) and len(output.args[0]) == 1:
        output.args = (output.args[0][0],)
    module.recompile()
    return TracedModel(functions_to_layers(module, feature), feature)


def _paths(node: fx.Node) -> list[str]:
    """Return the submodules that contain a node of a program."""
    return [
        path
        for path, _ in (node.meta.get("nn_module_stack") or {}).values()
        if not path.startswith("_")
    ]


def _single(nodes: list[fx.Node], split: str) -> fx.Node:
    if len(nodes) != 1:
        raise UsageError(
            f"the output of {split!r} must be one tensor that is computed once, but it is computed "
            f"{len(nodes)} times in the forward pass; split after another submodule"
        )
    return nodes[0]


def _check_split(split: str, names: Iterable[str]) -> None:
    known = list(names)
    if split not in known:
        near = get_close_matches(split, known, n=3, cutoff=0.4) or known[:10]
        raise UsageError(
            f"the model has no submodule {split!r} to split after; did you mean {', '.join(near)}?"
        )


def working_copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode and single precision.

    Activations no longer compute in place, which would forbid differentiating through them twice.
    Backward hooks, such as those of Opacus, are removed.
    """
    copied = copy.deepcopy(model).cpu().float().eval()
    for module in copied.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return copied
