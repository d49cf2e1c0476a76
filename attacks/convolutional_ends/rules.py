"""How a convolutional end is found in a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd, kernel_inputs
from leakbench.attacks.convolutional_ends.kinked import kinked_activation
from leakbench.attacks.demixable_ends.registry import Lacking, register_end
from leakbench.attacks.linear_layers.head import Layer
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


@register_end(CONVOLUTION)
def convolutional_end(
    model: SharedModel, image_shape: tuple[int, ...]
) -> ConvolutionalEnd | Lacking:
    """Return the model's convolutional end, or why it has none."""
    head = [each for each in _layers(model.classifier) if not _does_nothing(each)]
    if [type(each) for each in head] != [nn.Linear] or head[0].bias is None:
        many = sum(isinstance(each, nn.Linear) for each in head)
        way_out = "take mask_demixing or newton_demixing" if many > 1 else "split it elsewhere"
        found = f"this one has a classifier of {_names(head)}"
        return Lacking(NEEDED, found, f"{way_out}, or set model.hidden_layers=0")
    layers = [each for each in _layers(model.extractor) if not _does_nothing(each)]
    found = f"this one ends in {_names([*layers[-5:], *head])}"
    lacking = Lacking(NEEDED, found, "take another attack, such as feature, or split it elsewhere")
    averaged = len(layers) > 2 and isinstance(layers[-1], nn.Flatten) and _averages(layers[-2])
    before = [number for number, each in enumerate(layers) if isinstance(each, nn.Conv2d)]
    if not (averaged and before):
        return lacking
    convolution, after = layers[before[-1]], layers[before[-1] + 1 : -2]
    assert isinstance(convolution, nn.Conv2d)
    if id(convolution.weight) not in {id(each) for each in model.parameters()}:
        return NOT_SENT
    norms, activations = after[:-1], after[-1:]
    fits = len(norms) < 2 and all(isinstance(each, nn.BatchNorm2d) for each in norms)
    if not (activations and fits and _is_plain(convolution)):
        return lacking
    norm = norms[0] if norms else None
    assert norm is None or isinstance(norm, nn.BatchNorm2d)
    return _assembled(model, image_shape, convolution, norm, activations[0], head[0], lacking)


def _assembled(
    model: SharedModel,
    image_shape: tuple[int, ...],
    convolution: nn.Conv2d,
    norm: nn.BatchNorm2d | None,
    activation: nn.Module,
    output: nn.Module,
    lacking: Lacking,
) -> ConvolutionalEnd | Lacking:
    """Return the end of these modules, if they compute what they seem to."""
    assert isinstance(output, nn.Linear)
    kinked = kinked_activation(activation, convolution.out_channels)
    folded = _folded(convolution, norm)
    if kinked is None or folded is None:
        return lacking
    weight, bias, factor = folded
    of_bias = convolution.bias if norm is None else norm.bias
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    needed = (convolution.weight, of_bias, output.weight, output.bias)
    if not all(id(each) in names for each in needed):
        return NOT_SENT
    drawn = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    images = drawn.to(convolution.weight)
    inputs = kernel_inputs(model, convolution, images)
    end = ConvolutionalEnd(
        names=(names[id(convolution.weight)], names[id(of_bias)]),
        convolution=convolution,
        weight=weight,
        bias=bias,
        row_scale=factor,
        activation=kinked,
        output=Layer(
            (names[id(output.weight)], names[id(output.bias)]),
            _double(output.weight),
            _double(output.bias),
            None,
        ),
        positions=inputs.shape[1],
    )
    with torch.no_grad():
        features, logits = (_double(each) for each in (model.features(images), model(images)))
    expected = end.pooled(end.z(inputs.flatten(0, 1)))
    agrees = features.shape == expected.shape and torch.allclose(
        features, expected, rtol=1e-3, atol=1e-4 * float(features.abs().max())
    )
    agrees = agrees and torch.allclose(
        logits.softmax(1), end.probabilities(expected), rtol=1e-3, atol=1e-4
    )
    return end if agrees else lacking


def _folded(
    convolution: nn.Conv2d, norm: nn.BatchNorm2d | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return W and b with BatchNorm in them, and its factors; None if it has no such form."""
    weight = _double(convolution.weight).flatten(1)
    bias = weight.new_zeros(len(weight))
    if convolution.bias is not None:
        bias = _double(convolution.bias)
    if norm is None:
        return None if convolution.bias is None else (weight, bias, torch.ones_like(bias))
    mean, variance = norm.running_mean, norm.running_var
    # Without running statistics it normalises by the batch, in whichever mode.
    if mean is None or variance is None or norm.bias is None or norm.training:
        return None
    factor = _double(norm.weight) / (_double(variance) + norm.eps).sqrt()
    return (
        weight * factor[:, None],
        _double(norm.bias) + factor * (bias - _double(mean)),
        factor,
    )


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what a module computes one after the other: plain sequences are opened."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for each in module:
            yield from _layers(each)
    else:
        yield module


def _does_nothing(module: nn.Module) -> bool:
    dropout = isinstance(module, nn.Dropout | nn.Dropout2d) and not (module.training and module.p)
    return isinstance(module, nn.Identity) or dropout


def _averages(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _is_plain(convolution: nn.Conv2d) -> bool:
    return (
        convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def _names(modules: list[nn.Module]) -> str:
    return ", ".join(type(each).__name__ for each in modules) or "nothing"


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
