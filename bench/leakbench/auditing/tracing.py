"""The computation graph of a user's model, with the node after which its head begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.graph import CodeGen
from torch.nn.modules.dropout import _DropoutNd

from leakbench.auditing.copied_model import working_copy
from leakbench.auditing.head_search import head_input
from leakbench.auditing.in_place import without_in_place
from leakbench.auditing.layers import DROPOUT_REMOVED, functions_to_layers
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line


@dataclass(frozen=True)
class TracedModel:
    """A model as a graph of its modules.

    Attributes:
        module: the graph, from images to logits.
        feature: the node whose output is the deep feature.
        names: the user's name of each parameter → the parameter in the graph.
        has_dropout: whether the model has dropout, which is left out of the graph.
    """

    module: fx.GraphModule
    feature: fx.Node
    names: Mapping[str, nn.Parameter]
    has_dropout: bool


def traces(
    model: nn.Module | ExportedProgram, split: str | None, images: Tensor
) -> Iterator[TracedModel]:
    """Yield graphs of a model, each of a copy, with the output of a submodule marked in it.

    First all modules are traced; then all but the split itself; then only those that contain the
    split, and the others are single nodes; at last the model is exported by `torch.export`. What
    cannot be traced is left out, so that the first graph is that with the most detail.

    Args:
        split: the submodule's name; None for the input of the last chain of linear layers.
        images: an example batch, shape (n, channels, height, width).

    Raises:
        UsageError: there is no such submodule, it is not called exactly once, there is no such
            chain, or the forward pass can be neither traced nor exported.
    """
    if isinstance(model, ExportedProgram):
        yield _of_program(model, split, None)
        return
    if split is not None:
        _check_split(split, [name for name, _ in model.named_modules() if name])
    why, traced = "", False
    tracers: list[_DeepTracer] = [_InlineTracer(split)]
    if split is not None:
        tracers += [_DeepTracer(split), _ShallowTracer(split)]
    for tracer in tracers:
        own = working_copy(model)
        try:
            graph = tracer.trace(own)
        except Exception as error:
            why = str(error)
            continue
        feature = None
        if split is not None:
            outputs = tracer.outputs(graph)
            if not outputs and isinstance(tracer, _InlineTracer):
                continue
            feature = _single(outputs, split)
        traced = True
        yield _as_layers(fx.GraphModule(own, graph), feature, own)
    try:
        yield _exported(working_copy(model), split, images, why)
    except UsageError:
        if not traced:
            raise


def _as_layers(module: fx.GraphModule, feature: fx.Node | None, own: nn.Module) -> TracedModel:
    """Return a graph of layers that compute nothing in place.

    Args:
        feature: the node of the split; None for the input of the last chain of linear layers.
        own: the copy of the model that the graph was made of.
    """
    without_in_place(module)
    _without_flattening(module)
    _without_log_softmax(module)
    dropout = any(isinstance(m, _DropoutNd) and m.p > 0 for m in own.modules())
    layers = functions_to_layers(module, feature)
    return TracedModel(
        module=layers,
        feature=head_input(layers) if feature is None else feature,
        names=dict(own.named_parameters()),
        has_dropout=dropout or bool(layers.meta.get(DROPOUT_REMOVED)),
    )


def _without_flattening(module: fx.GraphModule) -> None:
    """Let a graph return its column of single logits before it is flattened, and made one again.

    Only where the last operation makes a column of what the one before flattened. The caller has to
    compare the outputs.
    """
    output = next(node for node in module.graph.nodes if node.op == "output")
    column = output.args[0]
    if not isinstance(column, fx.Node) or _operation(column) != "unsqueeze":
        return
    flat = column.args[0]
    if isinstance(flat, fx.Node) and _operation(flat) in FLATTENING:
        output.args = (flat.args[0],)
        module.graph.eliminate_dead_code()
        module.recompile()


def _without_log_softmax(module: fx.GraphModule) -> None:
    """Let a graph return the logits before a last log-softmax, whose cross-entropy is the same.

    The caller has to compare the outputs.
    """
    output = next(node for node in module.graph.nodes if node.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node):
        return
    dim: Any = None
    if last.op == "call_module":
        layer = module.get_submodule(str(last.target))
        if isinstance(layer, nn.LogSoftmax):
            dim = layer.dim
    elif _operation(last) == "log_softmax":
        dim = last.kwargs.get("dim", last.args[1] if len(last.args) > 1 else None)
    if dim in (1, -1):
        output.args = (last.args[0],)
        module.graph.eliminate_dead_code()
        module.recompile()


FLATTENING = ("squeeze", "flatten", "view", "reshape", "ravel")
"""Operations that leave a column's numbers as they are."""


def _operation(node: fx.Node) -> str:
    """Return the name of a function or method that a node calls."""
    if node.op not in ("call_function", "call_method"):
        return ""
    packet = getattr(node.target, "overloadpacket", node.target)
    return packet if isinstance(packet, str) else str(getattr(packet, "__name__", ""))


class _DeepTracer(fx.Tracer):
    """Traces all modules except PyTorch's own and the one after which the model is split."""

    def __init__(self, split: str | None) -> None:
        super().__init__()
        self.split = split

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one node."""
        return module_qualified_name == self.split or super().is_leaf_module(
            m, module_qualified_name
        )

    def outputs(self, graph: fx.Graph) -> list[fx.Node]:
        """Return the outputs of the split."""
        return [n for n in graph.nodes if n.op == "call_module" and n.target == self.split]


class _InlineTracer(_DeepTracer):
    """Traces the module after which the model is split, too."""

    def __init__(self, split: str | None) -> None:
        super().__init__(split)
        self.found: list[fx.Node] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one node."""
        return fx.Tracer.is_leaf_module(self, m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace a call, and keep the output of the split."""
        output = super().call_module(m, forward, args, kwargs)
        if self.path_of_module(m) == self.split and isinstance(output, fx.Proxy):
            self.found.append(output.node)
        return output

    def outputs(self, graph: fx.Graph) -> list[fx.Node]:  # noqa: ARG002
        """Return the outputs of the split."""
        return self.found


class _ShallowTracer(_DeepTracer):
    """Traces only the modules that contain the split."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        """Whether the module is one node."""
        return not str(self.split).startswith(f"{module_qualified_name}.")


def _exported(model: nn.Module, split: str | None, images: Tensor, why: str) -> TracedModel:
    batch = ({0: Dim("individuals")},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (images,), dynamic_shapes=batch)
    except Exception as error:
        first = one_line(why)[:200]
        around = "" if split is None else f" around {split!r}"
        raise UsageError(
            f"the forward pass of {type(model).__name__}{around} can be neither traced "
            f"({first}) nor exported by torch.export ({type(error).__name__}); move code "
            f"that depends on the values of tensors into submodules that do not contain the split"
        ) from error
    return _of_program(program, split, model)


def _of_program(program: ExportedProgram, split: str | None, own: nn.Module | None) -> TracedModel:
    """Return the graph of a program, whose operations remember the submodule they belong to.

    Args:
        own: the module that was exported; None for a program that the user gave.
    """
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        # Checks of the shapes that the program was exported for; the audit has messages of its own.
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    feature = None
    if split is not None:
        paths = {node: _paths(node) for node in module.graph.nodes}
        known = {path for of_node in paths.values() for path in of_node if path}
        _check_split(split, sorted(known))
        inside = {node for node, of_node in paths.items() if split in of_node}
        last = [node for node in inside if any(user not in inside for user in node.users)]
        feature = _single(last, split)
    # Take one input and return one output, not lists of them.
    module.graph.set_codegen(CodeGen())
    output = next(node for node in module.graph.nodes if node.op == "output")
    if isinstance(output.args[0], tuple | list) and len(output.args[0]) == 1:
        output.args = (output.args[0][0],)
    module.recompile()
    return _as_layers(module, feature, module if own is None else own)


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
