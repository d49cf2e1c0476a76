"""How a token end is found in a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leakbench.attacks.demixable_ends.calls import (
    Call,
    agrees,
    calls_of,
    double,
    leaves,
    names_of,
)
from leakbench.attacks.demixable_ends.registry import Lacking, register_end
from leakbench.attacks.linear_layers.activations import Smooth, activation_of
from leakbench.attacks.linear_layers.head import Layer
from leakbench.attacks.token_ends.end import Normalisation, TokenEnd, at_token
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel

TOKEN = "token"
"""The kind of end."""

NEEDED = (
    "a transformer that classifies by one token: a last MLP with GELU, SiLU or Tanh beside a "
    "shortcut, LayerNorm, where it is split, and one linear layer"
)

WAY_OUT = "take another attack, such as feature or feature_direct, or split it elsewhere"

NOT_SENT = Lacking(
    "the gradients of the last block's MLP and of the output layer",
    "clients do not send all of them",
    "let them train these layers, as with model.trained=last or all",
)


@register_end(TOKEN)
def token_end(model: SharedModel, examples: Tensor) -> TokenEnd | Lacking:
    """Return the model's token end, or why it has none."""
    head = list(leaves(model.classifier))
    if [type(each) for each in head] != [nn.Linear] or head[0].bias is None:
        many = sum(isinstance(each, nn.Linear) for each in head)
        way_out = "take mask_demixing or newton_demixing" if many > 1 else WAY_OUT
        return Lacking(NEEDED, f"this one has a classifier of {names_of(head)}", way_out)
    assert isinstance(head[0], nn.Linear)
    calls, features = calls_of(model, examples[:2])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = _end(calls, features, head[0], names)
    if isinstance(found, str):
        kinds = names_of([call.module for call in calls[-5:]])
        return Lacking(NEEDED, f"this one ends in {kinds}, and {found}", WAY_OUT)
    if not all((*found.first.names, *found.second.names, *found.output.names)):
        return NOT_SENT
    if not _explains(found, model, examples[:2], calls):
        return Lacking(
            NEEDED,
            "in this one more than one token of each individual reaches the loss through the last "
            "MLP, or something else is computed with its layers",
            WAY_OUT,
        )
    return found


def _end(
    calls: list[Call], features: Tensor, output: nn.Linear, names: Mapping[int, str]
) -> TokenEnd | str:
    """Return the layers at the end, or what is in their place, as a clause."""
    last = next((c for c in reversed(calls) if isinstance(c.module, nn.LayerNorm)), None)
    token = None if last is None else _token(last.output, features)
    if last is None or token is None:
        return "its deep features are no token after LayerNorm"
    before = calls[: _place(calls, last)]
    linear = [call for call in before if isinstance(call.module, nn.Linear)]
    if len(linear) < 2:
        return "no MLP is before LayerNorm"
    one, two = linear[-2:]
    activation = _activation(one.output, two.input)
    if activation is None:
        return "no GELU, SiLU or Tanh is between its last two linear layers"
    sums, made, h = (at_token(v, token) for v in (last.input, two.output, one.input))
    norm = None
    if not agrees(sums - made, h):
        norm = next(
            (
                call
                for call in reversed(before)
                if isinstance(call.module, nn.LayerNorm) and agrees(call.output, one.input)
            ),
            None,
        )
        if norm is None or not agrees(at_token(norm.input, token), sums - made):
            return "no shortcut of the MLP's input, or of what LayerNorm makes it from, is added"
    modules = (one.module, two.module, last.module, None if norm is None else norm.module)
    return _assembled(modules, output, activation, token, names)


def _assembled(
    modules: tuple[nn.Module, nn.Module, nn.Module, nn.Module | None],
    output: nn.Linear,
    activation: Smooth,
    token: int,
    names: Mapping[int, str],
) -> TokenEnd | str:
    one, two, after, before = modules
    assert isinstance(one, nn.Linear) and isinstance(two, nn.Linear)
    last, first = _normalisation(after), None if before is None else _normalisation(before)
    if one.bias is None or two.bias is None or last is None or (before and first is None):
        return "its last linear layers or LayerNorms have no biases"
    if first is not None and not bool((first.weight != 0).all()):
        return "its LayerNorm drops channels"
    return TokenEnd(
        first=_layer(one, activation, names),
        second=_layer(two, None, names),
        before=first,
        after=last,
        output=_layer(output, None, names),
        module=one,
        norm=before if isinstance(before, nn.LayerNorm) else None,
        token=token,
    )


def _layer(module: nn.Linear, activation: Smooth | None, names: Mapping[int, str]) -> Layer:
    return Layer(
        (names.get(id(module.weight), ""), names.get(id(module.bias), "")),
        double(module.weight),
        double(module.bias),
        activation,
    )


def _normalisation(module: nn.Module) -> Normalisation | None:
    assert isinstance(module, nn.LayerNorm)
    if module.weight is None or module.bias is None or len(module.normalized_shape) != 1:
        return None
    return Normalisation(double(module.weight), double(module.bias), module.eps)


def _token(normalised: Tensor, features: Tensor) -> int | None:
    """Return the place of the token that deep features are; None if they are none."""
    if normalised.ndim == 2:
        return 0 if agrees(normalised, features) else None
    if normalised.ndim != 3:
        return None
    places = range(normalised.shape[1])
    return next((p for p in places if agrees(normalised[:, p], features)), None)


def _activation(before: Tensor, after: Tensor) -> Smooth | None:
    """Return the smooth activation that is computed between two layers, whatever computes it."""
    for module in (nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh()):
        if agrees(module(before), after):
            found = activation_of(module)
            assert isinstance(found, Smooth)
            return found
    return None


def _place(calls: list[Call], of: Call) -> int:
    return next(number for number, call in enumerate(calls) if call is of)


def _explains(end: TokenEnd, model: SharedModel, examples: Tensor, calls: list[Call]) -> bool:
    """Whether one token makes the model's features, probabilities and gradients for examples."""
    labels = torch.arange(len(examples)) % end.classes
    with torch.no_grad():
        features, logits = (double(each) for each in (model.features(examples), model(examples)))
    update = client_update(model, examples, labels.to(examples.device))
    h = end.inputs(model, examples)
    sums = end.sums(h, end.deviations(model, examples)[:, None])
    delta = end.errors(sums)[torch.arange(len(labels)), labels] / len(labels)
    z = end.first.forward(h)
    x = end.activation.derivative(z) * (delta @ end.second.weight)
    extended = torch.cat([h, torch.ones_like(h[:, :1])], dim=1)
    last = [call for call in calls if call.module is end.module]
    return (
        len(last) == 1
        and agrees(end.features(sums), features)
        and agrees(end.probabilities(features), logits.softmax(1))
        and agrees(end.gradient(update), x.mT @ extended)
    )
