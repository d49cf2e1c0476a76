"""A user's model as a shared model f = f_c ∘ f_n, split after one of its submodules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from leakbench.auditing.client_loss import loss_of
from leakbench.auditing.client_targets import Targets
from leakbench.auditing.copied_model import unwrapped
from leakbench.auditing.graph_splitting import deep_feature_node, split_graph
from leakbench.auditing.labelled_images import kind_of
from leakbench.auditing.model_outputs import output_of
from leakbench.auditing.same_model import AnotherModelError, check_same_model
from leakbench.auditing.tracing import TracedModel, traces
from leakbench.base.choices import Mode
from leakbench.base.errors import UsageError
from leakbench.federation.loss import PLAIN, Loss
from leakbench.federation.shared_model import SharedModel


class PixelScale(nn.Module):
    """The scaling of pixels before the model: (x − mean) / deviation.

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


class SplitModel(SharedModel):
    """A user's model, split in two.

    Attributes:
        names: parameter of an update, `extractor.…` or `classifier.…` → the user's name for it.
        classes: number K of main-task classes.
        parameter_tensors: of the user's model, how many tensors there are, frozen ones included.
        has_dropout: whether the user's model has dropout, which is left out here.
        split: where it is split, for the report.
        loss: of clients.
    """

    def __init__(
        self,
        extractor: nn.Module,
        classifier: nn.Module,
        names: Mapping[str, str],
        classes: int,
        has_dropout: bool,
        split: str,
        parameters: int,
        loss: Loss = PLAIN,
    ) -> None:
        super().__init__(extractor, classifier)
        self.parameter_tensors = parameters
        self.loss = loss
        self.names = dict(names)
        self.classes = classes
        self.has_dropout = has_dropout
        self.split = split

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
                "the model does not end in a linear layer with a bias, from which labels are "
                "recovered; let the server know them (`labels_known`), or use labels=joint"
            )
        return last

    @property
    def has_output_bias(self) -> bool:
        """Whether labels can be recovered from the bias of the output layer."""
        try:
            return bool(self.output_bias)
        except UsageError:
            return False


def _last_layer(classifier: nn.Module) -> str:
    """Return the path of the module that outputs the logits; empty if there is none."""
    assert isinstance(classifier, fx.GraphModule)
    (logits,) = next(node for node in classifier.graph.nodes if node.op == "output").args
    if not isinstance(logits, fx.Node) or logits.op != "call_module":
        return ""
    path = str(logits.target)
    while isinstance(layer := classifier.get_submodule(path), nn.Sequential) and len(layer):
        path = f"{path}.{list(layer._modules)[-1]}"
    return path


def split_model(
    model: nn.Module | ExportedProgram,
    split: str | None,
    images: Tensor,
    scale: PixelScale | None = None,
    targets: Targets | None = None,
) -> SplitModel:
    """Return a copy of a user's model, split after its submodule `split`.

    Without one it is split before its last chain of linear layers, see
    `leakbench.auditing.head_search.head_input`.

    Deep features are that submodule's output, flattened. Parameters that require no gradient become
    constants: they are in no update.

    Args:
        images: an example batch in [0, 1], shape (n, channels, height, width), n ≥ 2.
        scale: of pixels; None if the model takes them in [0, 1].
        targets: how labels enter the clients' loss; None for the mean cross-entropy.

    Raises:
        UsageError: the model returns a single logit, and no loss is given; there is no such
            submodule; the head depends on anything but its output; the model does not take the
            images, or does not return logits; or the split model does not compute the user's logits
            and gradients.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
    scaled = images if scale is None else scale(images)
    logits = logits_of(model, scaled)
    targets = targets or Targets(None, loss_of(None, logits.shape[1]))
    different = None
    for traced in traces(model, split, scaled):
        own = _split(traced, scaled, scale, split, logits.shape[1], targets.loss)
        try:
            check_same_model(own, own.names, model, images, scaled, targets)
        except AnotherModelError as error:
            different = different or error
            continue
        return own
    where = "before its last linear layers" if split is None else f"after {split!r}"
    raise UsageError(
        f"split {where}, the model cannot be followed: {different}; its forward pass does more "
        f"than its layers show, such as changing a view in place or torch.no_grad; rewrite that "
        f"part, or split elsewhere"
    )


def check_in_mode(
    own: SplitModel,
    model: nn.Module | ExportedProgram,
    images: Tensor,
    scale: PixelScale | None,
    mode: Mode,
    targets: Targets,
) -> None:
    """Refuse a model that does not compute what the user's computes in the clients' mode.

    Of a saved program, which has one mode, only that in `split_model` is compared.

    Raises:
        UsageError: logits or gradients differ.
    """
    if mode == "eval" or not isinstance(model, nn.Module):
        return
    try:
        check_same_model(
            own,
            own.names,
            model,
            images,
            images if scale is None else scale(images),
            targets,
            mode,
        )
    except AnotherModelError as error:
        raise UsageError(
            f"the model cannot be followed in training mode: {error}; give it BatchNorm layers of "
            f"PyTorch's, or audit updates of mode eval"
        ) from error


def _split(
    traced: TracedModel,
    scaled: Tensor,
    scale: PixelScale | None,
    given: str | None,
    logits: int,
    loss: Loss,
) -> SplitModel:
    """Return the split model of a graph.

    Args:
        given: the split; None where the graph's was found.

    Raises:
        UsageError: the graph cannot be split there.
    """
    # Of a parameter with several names, updates have the one that the user's model lists.
    known = {id(p): name for name, p in traced.names.items()}
    split = given or "the head that was found"
    feature = deep_feature_node(traced, scaled, split)
    extractor, classifier = split_graph(traced.module, feature, scale, split)
    shared = SharedModel(extractor, classifier)
    before = {id(parameter) for parameter in extractor.parameters()}
    both = [known[id(p)] for p in classifier.parameters() if id(p) in before]
    if both:
        raise UsageError(
            f"parameter {both[0]!r} is used before and after the split {split!r}; split where "
            f"both sides share no parameter"
        )
    if not list(classifier.parameters()):
        raise UsageError(
            f"no weights follow the split {split!r}, so that there is no head; split before the "
            f"model's last layer"
        )
    trained = {name: p for name, p in shared.named_parameters() if p.requires_grad}
    names = {name: known[id(p)] for name, p in (trained or dict(shared.named_parameters())).items()}
    _freeze(shared, set(names))
    split = given or f"the input of {_owner(names, shared)}"
    classes = loss.classes(logits)
    every = len(traced.names)
    own = SplitModel(extractor, classifier, names, classes, traced.has_dropout, split, every, loss)
    return own.requires_grad_(False).eval()


def _owner(names: Mapping[str, str], shared: SharedModel) -> str:
    """Return the user's name of the head's first layer."""
    first = next(name for name, _ in shared.named_parameters() if name.startswith("classifier."))
    return names[first].rpartition(".")[0]


def logits_of(model: nn.Module | ExportedProgram, images: Tensor) -> Tensor:
    """Return the model's logits, shape (n, K).

    Raises:
        UsageError: it does not take the images, or returns something else.
    """
    logits = output_of(model, images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.shape[1]:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the model must return logits of shape (individuals, classes), but of "
            f"{len(images)} {kind_of(images)} it returns {shape}; wrap it so that it does"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError(
            f"the model returns NaN or infinity for {kind_of(images)} of D_aux; check its weights "
            f"and the scaling of its inputs"
        )
    return logits


def _freeze(model: nn.Module, trained: set[str]) -> None:
    """Turn the parameters that are in no update into buffers, in all modules that have them."""
    kept = {id(model.get_parameter(name)) for name in trained}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        path, _, last = name.rpartition(".")
        owner = model.get_submodule(path)
        if id(parameter) not in kept and last in owner._parameters:
            del owner._parameters[last]
            owner.register_buffer(last, parameter.detach())
