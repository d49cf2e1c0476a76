"""Audits of models without hidden layers choose the exact attack for the model's end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18, vit_b_16

from auditing import audited, by_name, gradients, in_batches, people
from convolutional_planting import residual_network
from leakbench import LabelledImages, Report

VICTIMS = people(6, seed=2)


class Whole(nn.Module):
    """A shared model's layers as a user has them: no split, the average a function."""

    def __init__(self, layers: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.layers, self.output = layers, output

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layers(images)
        return self.output(hidden if hidden.ndim == 2 else hidden.mean((2, 3)))


def residual() -> nn.Module:
    own = residual_network(classes=4)
    return Whole(own.extractor[:-2], own.classifier[0]).eval()


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=8,
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=128,
        num_classes=4,
    )
    # torchvision begins with zeros, which tell nothing of anybody.
    nn.init.normal_(model.heads.head.weight, std=0.3)
    return model.eval()


def by_default(model: nn.Module, victims: LabelledImages, size: int, **changed: object) -> Report:
    return audited(
        model,
        gradients(model, victims, size),
        truth=in_batches(victims, size),
        split=None,
        attacks=None,
        budget=4,
        **changed,
    )


@pytest.mark.parametrize(
    ("build", "attack"),
    [(residual, "convolution_demixing"), (transformer, "token_demixing")],
)
def test_everybody_is_certified_with_attacks_left_at_their_default(
    build: Callable[[], nn.Module], attack: str
) -> None:
    report = by_default(build(), VICTIMS, 3)
    found = by_name(report.attacks)[attack]
    assert not found.refused
    assert (found.certified, found.false_certificates) == (6, 0)


def test_other_models_are_not_attacked_at_an_end_that_they_lack() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 4))
    report = by_default(model, VICTIMS, 3)
    left_out = {"convolution_demixing", "token_demixing", "newton_demixing"}
    assert not left_out & set(by_name(report.attacks))
    assert "Newton demixing is for other models and was left out: " in " ".join(report.limitations)
    assert report.verdict.not_run == []


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("build", "attack"),
    [
        (resnet18, "convolution_demixing"),
        (mobilenet_v2, "convolution_demixing"),
        (lambda num_classes: vit_b_16(num_classes=num_classes, image_size=64), "token_demixing"),
    ],
    ids=["ResNet-18", "MobileNetV2", "ViT-B/16"],
)
def test_unmodified_networks_of_torchvision_leak_everybody(
    build: Callable[..., nn.Module], attack: str
) -> None:
    torch.manual_seed(0)
    model = build(num_classes=4)
    if attack == "token_demixing":
        nn.init.normal_(model.heads.head.weight, std=0.02)
    larger = people(128, seed=1), people(8, seed=2)
    auxiliary, victims = (
        LabelledImages(
            images=nn.functional.interpolate(of.images, size=64),
            labels=of.labels,
            properties=of.properties,
        )
        for of in larger
    )
    # As after training: at initialisation the logits of deep networks are the same for everybody.
    update_bn(auxiliary.images.split(32), model)
    report = by_default(model.eval(), victims, 8, auxiliary=auxiliary)
    found = by_name(report.attacks)[attack]
    assert not found.refused
    assert (found.certified, found.false_certificates) == (8, 0)
