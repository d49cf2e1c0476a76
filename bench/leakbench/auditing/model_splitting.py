"""A user's model as a shared model f = f_c ∘ f_n, cut after a submodule of its own."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.modules.dropout import _DropoutNd

from leakbench.auditing.layers import DROPS
from leakbench.auditing.tracing import Traced, own_copy, traced
from leakbench.base.errors import UsageError
from leakbench.federation.shared_model import SharedModel

SCALE = "_pixel_scale"


class PixelScale(nn.Module):
    """What clients do with pixels before the model sees them: (x − mean) / deviation.

    Args:
        mean, deviation: of each channel, or one number for all.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return scaled images, same shape."""
        return (images - self.mean) / self.deviation  # type: ignore[operator]


class OwnModel(SharedModel):
    """A user's model, cut in two.

    Attributes:
        names: parameter of an update, `extractor.…` or `classifier.…` → the user's name for it.
        classes: number K of main-task classes.
        drops: whether the user's model has dropout, which is left out here.
    """

    def __init__(
        self,
        extractor: nn.Module,
        classifier: nn.Module,
        names: Mapping[str, str],
        classes: int,
        drops: bool,
    ) -> None:
        super().__init__(extractor, classifier)
        self.names = dict(names)
        self.classes = classes
        self.drops = drops

    @property
    def output_bias(self) -> str:
        """The name of the output layer's bias.

        Raises:
            UsageError: logits are not the output of a linear layer with a bias that is trained.
        """
        path = f"classifier.{_last_layer(self.classifier)}"
        last = f"{path}.bias"
        if last not in self.names or not isinstance(self.get_submodule(path), nn.Linear):
            raise UsageError(
                "the model does not end in a linear layer with a bias, off which labels are read; "
                "let the server know them (`labels_known`), or use labels=joint"
            )
        return last


def _last_layer(classifier: nn.Module) -> str:
    """Return the path of the module whose output the logits are; empty if there is none."""
    assert isinstance(classifier, fx.GraphModule)
    (logits,) = next(node for node in classifier.graph.nodes if node.op == "output").args
    if not isinstance(logits, fx.Node) or logits.op != "call_module":
        return ""
    path = str(logits.target)
    while isinstance(layer := classifier.get_submodule(path), nn.Sequential) and len(layer):
        path = f"{path}.{list(layer._modules)[-1]}"
    return path


def own_model(
    model: nn.Module | ExportedProgram,
    split: str,
    images: Tensor,
    scale: PixelScale | None = None,
) -> OwnModel:
    """Return a copy of a user's model, cut after its submodule `split`.

    Deep features are that submodule's output, flat. Parameters that do not ask for a gradient stay
    as they are: no update tells anything of them.

    Args:
        images: an example batch in [0, 1], shape (n, channels, height, width), n ≥ 2.
        scale: what is done with pixels first.

    Raises:
        UsageError: there is no such submodule; the head reads something else than its output; the
            model does not take the images, or gives no logits.
    """
    if isinstance(model, nn.Module):
        model = own_copy(model)
    example = images if scale is None else scale(images)
    logits = _logits(model, example)
    cut = traced(model, split, example)
    feature = _settle_feature(cut, example, split)
    # A parameter with several names has in updates the one that the user's model lists.
    named = model if isinstance(model, nn.Module) else cut.module
    known = {id(p): name for name, p in named.named_parameters()}
    extractor, classifier = _halves(cut.module, feature, scale, split)
    shared = SharedModel(extractor, classifier)
    before = {id(parameter) for parameter in extractor.parameters()}
    both = [known[id(p)] for p in classifier.parameters() if id(p) in before]
    if both:
        raise UsageError(
            f"parameter {both[0]!r} is used before and after the split {split!r}; split "
            f"where nothing is shared by both sides"
        )
    if not list(classifier.parameters()):
        raise UsageError(
            f"no weights follow the split {split!r}, so that there is no head; split before the "
            f"model's last layer"
        )
    trained = {name: p for name, p in shared.named_parameters() if p.requires_grad}
    names = {name: known[id(p)] for name, p in (trained or dict(shared.named_parameters())).items()}
    _freeze(shared, set(names))
    drops = any(isinstance(m, _DropoutNd) and m.p > 0 for m in named.modules())
    drops = drops or bool(cut.module.meta.get(DROPS))
    own = OwnModel(extractor, classifier, names, logits.shape[1], drops)
    own.requires_grad_(False).eval()
    with torch.no_grad():
        again = own(images)
    if again.shape != logits.shape or not torch.allclose(again, logits, rtol=1e-3, atol=1e-4):
        raise UsageError(
            f"cut after {split!r} the model gives other logits than as a whole; its forward pass "
            f"depends on more than its layers, so split elsewhere"
        )
    return own


def _logits(model: nn.Module | ExportedProgram, images: Tensor) -> Tensor:
    """Return the model's logits, shape (n, K).

    Raises:
        UsageError: it does not take the images, or gives something else.
    """
    whole = model if isinstance(model, nn.Module) else model.module()
    try:
        with torch.no_grad():
            logits = whole(images)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the model does not take images of shape {tuple(images.shape)}: {said}; check "
            f"image_size and channels, and let a saved program take any number of individuals "
            f"(dynamic_shapes)"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the model must return logits of shape (individuals, classes), but of "
            f"{len(images)} images it returns {shape}; wrap it so that it does"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError(
            "the model returns NaN or infinity for images of D_aux; check its weights and the "
            "scaling of pixels"
        )
    return logits


def _settle_feature(cut: Traced, images: Tensor, split: str) -> fx.Node:
    """Return the deep feature: what the head's first weights read, flat.

    Layers without parameters that follow the split alone (activations, pooling, flattening) come
    before it.

    Raises:
        UsageError: it is no tensor with one row for each individual, or no weights follow.
    """
    values = _values(cut.module, images)
    feature = cut.feature
    while (follower := _only_follower(cut.module, feature, values)) is not None:
        feature = follower
    value = values[feature]
    if not isinstance(value, Tensor) or len(value) != len(images):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"the output of {split!r} must be a tensor with one row for each individual, but of "
            f"{len(images)} it is {shape}; split after another submodule"
        )
    if value.ndim == 2:
        return feature
    graph, module = cut.module.graph, cut.module
    module.add_submodule("_flat", nn.Flatten())
    module.add_submodule("_unflat", nn.Unflatten(1, value.shape[1:]))
    with graph.inserting_after(feature):
        flat = graph.call_module("_flat", (feature,))
    with graph.inserting_after(flat):
        back = graph.call_module("_unflat", (flat,))
    feature.replace_all_uses_with(back, delete_user_cb=lambda user: user not in (flat, back))
    return flat


def _values(module: fx.GraphModule, images: Tensor) -> dict[fx.Node, Any]:
    """Return what every node computes of some images."""
    values: dict[fx.Node, Any] = {}

    class Kept(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Kept(module).run(images)
    return values


def _only_follower(
    module: fx.GraphModule, feature: fx.Node, values: Mapping[fx.Node, Any]
) -> fx.Node | None:
    """Return the node without weights that alone reads the feature, and nothing else; or None."""
    readers = [user for user in feature.users if isinstance(values.get(user), Tensor)]
    if len(readers) != 1 or readers[0].op in ("output", "get_attr"):
        return None
    (reader,) = readers
    alone = all(n is feature or _counts_individuals(n) for n in reader.all_input_nodes)
    if reader.op == "call_module":
        alone = alone and not list(module.get_submodule(str(reader.target)).parameters())
    return reader if alone and len(values[reader]) == len(values[feature]) else None


def _halves(
    module: fx.GraphModule, cut: fx.Node, scale: PixelScale | None, split: str
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return f_n and f_c as modules of their own, which share the model's layers."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    before = _ancestors(cut)
    first, last = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def counted(node: fx.Node) -> fx.Node:
        """Return the copy of a node before the split; the number of individuals from the images."""
        if node not in copies:
            copies[node] = first.call_method("size", (copies[images], 0))
        return copies[node]

    images = next(node for node in module.graph.nodes if node.op == "placeholder")
    for node in module.graph.nodes:
        if node in before:
            copies[node] = first.node_copy(node, counted)
            if node is images and scale is not None:
                copies[node] = first.call_module(SCALE, (copies[node],))
    first.output(copies[cut])
    feature = last.placeholder("feature")
    heads: dict[fx.Node, fx.Node] = {cut: feature}

    def argument(node: fx.Node) -> fx.Node:
        if node not in heads:
            if node.op == "get_attr":
                heads[node] = last.get_attr(str(node.target))
            elif _counts_individuals(node):
                heads[node] = last.call_method("size", (feature, 0))
            else:
                raise UsageError(
                    f"the head reads {node.name!r}, which is computed before the split {split!r}, "
                    f"besides the deep feature; split where everything passes through one submodule"
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
    """Return a node and all that it is computed from, but for how many individuals there are."""
    found, ahead = {node}, [node]
    while ahead:
        for other in ahead.pop().all_input_nodes:
            if other not in found and not _counts_individuals(other):
                found.add(other)
                ahead.append(other)
    return found


def _counts_individuals(node: fx.Node) -> bool:
    """Whether a node is the number of individuals: the same before the split as after it."""
    if node.target in ("size", torch.ops.aten.sym_size.int):
        return bool(node.args[1:] == (0,))
    if node.target is operator.getitem and node.args[1:] == (0,):
        shape = node.args[0]
        whole = ("size", 1), (getattr, 2)
        if isinstance(shape, fx.Node) and (shape.target, len(shape.args)) in whole:
            return bool(shape.target == "size" or shape.args[1] == "shape")
    return False


def _freeze(model: nn.Module, trained: set[str]) -> None:
    """Make buffers of the parameters that no update holds, wherever they are met."""
    kept = {id(model.get_parameter(name)) for name in trained}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        path, _, last = name.rpartition(".")
        owner = model.get_submodule(path)
        if id(parameter) not in kept and last in owner._parameters:
            del owner._parameters[last]
            owner.register_buffer(last, parameter.detach())
