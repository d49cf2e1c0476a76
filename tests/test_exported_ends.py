"""Programs of torch.export tell how a model ends, as the model itself does."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.export import Dim, export

from auditing import audited, by_name, gradients, in_batches
from convolutional_planting import network
from leakbench.auditing.layers import functions_to_layers
from test_audit_ends import VICTIMS, Whole, transformer


def mobile() -> nn.Module:
    """A last convolution before ReLU6, as MobileNetV2's."""
    own = network(4, nn.ReLU6())
    return Whole(own.extractor[:-2], own.classifier[0]).eval()


@pytest.mark.parametrize(
    ("model", "attack"), [(transformer(), "token_demixing"), (mobile(), "convolution_demixing")]
)
def test_everybody_is_certified_in_programs_too(model: nn.Module, attack: str) -> None:
    program = export(model, (VICTIMS.images,), dynamic_shapes=({0: Dim("individuals")},))
    report = audited(
        program,
        gradients(model, VICTIMS, 3),
        truth=in_batches(VICTIMS, 3),
        split=None,
        attacks=None,
        budget=4,
    )
    found = by_name(report.attacks)[attack]
    assert not found.refused
    assert (found.certified, found.false_certificates) == (6, 0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(8),
        nn.LayerNorm(8, eps=1e-3, bias=False),
        nn.ReLU6(),
        nn.Hardtanh(-2, 3),
        nn.PReLU(4),
        nn.Hardswish(),
    ],
    ids=repr,
)
def test_operations_of_programs_become_the_layers_that_they_were(layer: nn.Module) -> None:
    with torch.no_grad():
        for each in layer.parameters():
            each.normal_()
    images = 3 * torch.randn(2, 4, 8)
    program = export(nn.Sequential(layer), (images,), dynamic_shapes=({0: Dim("individuals")},))
    program_module = program.module()
    assert isinstance(program_module, fx.GraphModule)
    module = functions_to_layers(program_module, None)
    (made,) = (m for m in module.modules() if type(m) is type(layer))
    torch.testing.assert_close(made(images), layer(images))
    names = {name for name, _ in layer.named_parameters()}
    assert {name for name, _ in made.named_parameters()} == names
