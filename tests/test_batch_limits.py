"""The largest batch sizes that a suite states are those of its models' equations."""

from __future__ import annotations

import pytest
import torch

from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.token_demixing import TokenDemixing
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import Group, load_suite

NAME, SUITE = load_suite("exact_networks")
QUICK = {
    "EfficientNet-Lite0, 64 px: individuals found exactly",
    "ResNet-18, 16 px (4 positions), after 20 rounds",
    "ViT-S, 64 px, after 20 rounds",
}

GROUPS = [
    pytest.param(group, id=group.title, marks=[] if group.title in QUICK else pytest.mark.nightly)
    for group in SUITE.group
    if group.limit is not None
]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_s_limit_is_that_of_its_model_s_equations(group: Group) -> None:
    suite = SUITE.model_copy(update={"group": [group]})
    entry = next(each for each in expand(NAME, suite) if "demixing" in each.cell.attack)
    cell = entry.cell
    parameters = dict(cell.model_parameters) | {"weights": "none"}
    model = build(MODELS, cell.model, parameters)
    shared = model.build(2, cell.image_size, cell.split).eval()
    attack = entry.resolved.attack
    assert isinstance(attack, ConvolutionDemixing | TokenDemixing)
    images = torch.rand(2, 3, cell.image_size, cell.image_size)
    assert attack.end(shared, images).largest_batch == entry.limit
