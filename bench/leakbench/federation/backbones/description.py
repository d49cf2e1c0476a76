"""What a user should know of a pretrained network before clients take it."""

from __future__ import annotations

import torch
from tabulate import tabulate

from leakbench.federation.backbones.backbone import POOLED, Backbone
from leakbench.federation.backbones.chain import stage_shapes
from leakbench.federation.backbones.input import WHOLE

SIZE, CLASSES = 64, 8
"""Image size and classes of the model that is described."""


def description(model: Backbone) -> str:
    """Return input, numbers of parameters, and splits with their feature sizes.

    Args:
        model: with the parameters of which it is described; no weights are loaded.
    """
    height, width = model.input_shape(SIZE)
    with torch.device("meta"):
        network = model.network(CLASSES, height, width)
        chain = network.chain
        own = sum(p.numel() for p in chain.parameters())
        shapes = stage_shapes(chain, (3, height, width))
        shared = model.assembled(network, CLASSES, SIZE, POOLED)
    shapes = {POOLED: (network.features,), **shapes}
    rows = [[name, _sizes(shapes[name])] for name in model.splits]
    splits = tabulate(rows, ["split after", "deep features E(X)"], tablefmt="simple")
    others = [name for name in shapes if name not in model.splits]
    head = sum(p.numel() for p in shared.classifier.parameters())
    trained = sum(p.numel() for p in shared.parameters())
    lines = [
        f"Input: {height}×{width} (height × width) of RGB in [0, 1], {_crop(model)}, resized "
        f"bilinearly; {_normalisation(model)}. For images of {SIZE} px.",
        f"Parameters: {own:,} in the network and {head:,} in the head for {CLASSES} classes; "
        f"clients train {_trained(model)}: {trained:,}.",
        f"{splits}\n\nOther splits: {', '.join(others)}.",
    ]
    return "\n\n".join(lines)


def _sizes(shape: tuple[int, ...]) -> str:
    """Return the number of features, and the map that they are."""
    count = f"{torch.Size(shape).numel():,}"
    return count if len(shape) == 1 else f"{count} ({'×'.join(map(str, shape))})"


def _crop(model: Backbone) -> str:
    if model.box == WHOLE:
        return "the whole image"
    left, upper, right, lower = model.box
    return (
        f"of the image the part from {_share(left)} to {_share(right)} of its width and from "
        f"{_share(upper)} to {_share(lower)} of its height"
    )


def _normalisation(model: Backbone) -> str:
    mean, deviation = (", ".join(f"{v:.3f}" for v in each) for each in model.constants)
    return f"less the mean ({mean}), by the deviation ({deviation})"


def _trained(model: Backbone) -> str:
    return {
        "all": "all of it",
        "last": f"the network from {model.last!r} on, and the head",
        "head": "the head",
    }[model.trained]


def _share(edge: float) -> str:
    return f"{100 * edge:.1f} %"
