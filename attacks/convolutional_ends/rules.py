"""How a convolutional end is found in a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakbench.attacks.convolutional_ends.convolution import Convolution, convolution_of
from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.convolutional_ends.kinked import Kinked, kinked_activation
from leakbench.attacks.demixable_ends.calls import (
    Call,
    agrees,
    calls_of,
    double,
    leaves,
    names_of,
    producer,
)
from leakbench.attacks.demixable_ends.registry import Lacking, register_end
from leakbench.attacks.linear_layers.head import Layer
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel

CONVOLUTION = "convolution"
"""The kind of end."""

NEEDED = (
    "a model that ends in a convolution, BatchNorm or a bias, ReLU, ReLU6, leaky or parametric "
    "ReLU, an average over all positions, where it is split, and one linear layer"
)


NOT_SENT = Lacking(
    "the gradients of the last convolution, of the bias after it and of the output layer",
    "clients do not send all of them",
    "let them train these layers, as with model.trained=last or all",
)


@dataclass(frozen=True)
class Tail:
    """The last convolution of a model and what follows it.

    Attributes:
        calls: of the extractor's layers.
        last: of the activation before the average.
        convolution: its call.
        norm: BatchNorm's after it.
        added: what a shortcut adds before the activation; None without one.
    """

    calls: list[Call]
    last: Call
    convolution: Call
    norm: nn.BatchNorm2d | None
    added: Tensor | None


@register_end(CONVOLUTION)
def convolutional_end(model: SharedModel, examples: Tensor) -> ConvolutionalEnd | Lacking:
    """Return the model's convolutional end, or why it has none."""
    head = list(leaves(model.classifier))
    if [type(each) for each in head] != [nn.Linear] or head[0].bias is None:
        many = sum(isinstance(each, nn.Linear) for each in head)
        way_out = "take mask_demixing or newton_demixing" if many > 1 else "split it elsewhere"
        found = f"this one has a classifier of {names_of(head)}"
        return Lacking(NEEDED, found, f"{way_out}, or set model.hidden_layers=0")
    calls, features = calls_of(model, examples[:2])
    sent = {id(parameter) for parameter in model.parameters()}
    convolutions = [call.module for call in calls if isinstance(call.module, nn.Conv2d)]
    if convolutions and id(convolutions[-1].weight) not in sent:
        return NOT_SENT
    tail = _tail(calls, features)
    if isinstance(tail, str):
        kinds = names_of([*(call.module for call in calls[-5:]), *head])
        return Lacking(
            NEEDED,
            f"this one ends in {kinds}, and {tail}",
            "take another attack, such as feature, or split it elsewhere",
        )
    return _assembled(model, examples[:2], tail, head[0])


def _tail(calls: list[Call], features: Tensor) -> Tail | str:
    """Return the last convolution and what follows it, or what is in its place, as a clause."""
    maps = [call for call in calls if call.output.ndim == 4]
    average = [call for call in maps if agrees(features, call.output.mean((2, 3)))]
    if not average:
        return "its deep features are no average of maps"
    last = next((call for call in average if _kinked(call.module, call.output)), None)
    if last is None:
        return "what is averaged comes from no such activation"
    before = maps[: maps.index(last)]
    own = producer(before, last)
    beside = [call for call in before if call.output.shape == last.input.shape]
    ends = own or next(
        (c for c in reversed(beside) if isinstance(c.module, nn.BatchNorm2d | nn.Conv2d)), None
    )
    norm, convolution = None, ends
    if ends is not None and isinstance(ends.module, nn.BatchNorm2d):
        norm, convolution = ends.module, producer(before, ends)
    if ends is None or convolution is None or not isinstance(convolution.module, nn.Conv2d):
        return "no convolution with BatchNorm or a bias is before the activation"
    added = None if own else last.input - ends.output
    return Tail(calls, last, convolution, norm, added)


def _assembled(
    model: SharedModel, examples: Tensor, tail: Tail, output: nn.Module
) -> ConvolutionalEnd | Lacking:
    """Return the end of these layers, if they compute what they seem to."""
    assert isinstance(output, nn.Linear) and isinstance(tail.convolution.module, nn.Conv2d)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    convolution = convolution_of(tail.convolution.module, tail.norm, names)
    branch = None if tail.added is None else _branch(tail, names)
    kinked = _kinked(tail.last.module, tail.last.output)
    biased = tail.norm is not None or tail.convolution.module.bias is not None
    if convolution is None or isinstance(branch, str) or kinked is None or not biased:
        why = "the last convolution has no bias, groups, or another padding than zeros"
        kinds = names_of([*(call.module for call in tail.calls[-5:]), output])
        return Lacking(
            NEEDED,
            f"this one ends in {kinds}, and {branch if isinstance(branch, str) else why}",
            "take another attack, such as feature, or split it elsewhere",
        )
    known = (convolution.weight_name, convolution.bias_name, *(c.weight_name for c in branch or ()))
    if not all((*known, id(output.weight) in names, id(output.bias) in names)):
        return NOT_SENT
    end = ConvolutionalEnd(
        convolution=convolution,
        module=tail.last.module,
        activation=kinked,
        output=Layer(
            (names[id(output.weight)], names[id(output.bias)]),
            double(output.weight),
            double(output.bias),
            None,
        ),
        map_shape=(tail.convolution.input.shape[2], tail.convolution.input.shape[3]),
        positions=tail.last.output.shape[2] * tail.last.output.shape[3],
        branch=branch,
    )
    if _explains(end, model, examples, tail):
        return end
    return Lacking(
        NEEDED,
        f"this one computes something else with its {names_of([tail.convolution.module, output])}",
        "take another attack, such as feature, or split it elsewhere",
    )


def _branch(tail: Tail, names: dict[int, str]) -> tuple[Convolution, ...] | str:
    """Return the convolutions that the shortcut passes, the last first, or why there are none."""
    assert tail.added is not None
    found: list[Convolution] = []
    call = tail.convolution
    while not agrees(call.input, tail.added):
        activation = producer(tail.calls, call)
        ends = producer(tail.calls, activation) if activation else None
        norm, before = None, ends
        if ends is not None and isinstance(ends.module, nn.BatchNorm2d):
            norm, before = ends.module, producer(tail.calls, ends)
        if activation is None or before is None or not isinstance(before.module, nn.Conv2d):
            return "a shortcut adds something other than an earlier layer's input"
        convolution = convolution_of(before.module, norm, names)
        plain = isinstance(activation.module, nn.ReLU)
        if convolution is None or not plain or not _keeps_size(before):
            return "the shortcut passes layers other than convolutions of stride 1 with ReLU"
        found.append(convolution)
        call = before
    # What the last one sees is taken apart by position.
    if not _keeps_size(tail.convolution):
        return "the convolution beside the shortcut has a stride"
    return tuple(found)


def _explains(end: ConvolutionalEnd, model: SharedModel, examples: Tensor, tail: Tail) -> bool:
    """Whether the end makes the model's features, probabilities and gradient for examples."""
    inputs = end.convolution.inputs(double(tail.convolution.input)).flatten(0, 1)
    z = double(tail.last.input).flatten(2).transpose(0, 1).flatten(1)
    shortcut = torch.zeros_like(z)
    if tail.added is not None:
        shortcut = double(tail.added).flatten(2).transpose(0, 1).flatten(1)
    labels = torch.arange(len(examples)) % end.classes
    with torch.no_grad():
        features, logits = (double(each) for each in (model.features(examples), model(examples)))
    update = client_update(model, examples, labels.to(examples.device))
    own = end.known_rows_of(end.expected_gradient(z, inputs, labels))
    return (
        agrees(end.convolution.z(inputs) + shortcut, z)
        and agrees(end.pooled(z), features)
        and agrees(end.probabilities(features), logits.softmax(1))
        and agrees(end.gradient(update), own)
    )


def _kinked(module: nn.Module, maps: Tensor) -> Kinked | None:
    return kinked_activation(module, maps.shape[1])


def _keeps_size(call: Call) -> bool:
    """Whether a convolution returns one position for each that it takes, its kernel centred."""
    module = call.module
    assert isinstance(module, nn.Conv2d)
    odd = all(size % 2 == 1 for size in module.kernel_size)
    plain = set(module.stride) == {1} and set(module.dilation) == {1}
    return odd and plain and call.input.shape[2:] == call.output.shape[2:]
