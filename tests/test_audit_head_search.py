"""Where no split is named, the model is split before its last chain of linear layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn import functional

from auditing import Net, audited, net, people
from leakbench.attacks.linear_layers.head import head_of
from leakbench.auditing.model_splitting import split_model
from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import deep_features


class Classic(nn.Module):
    """The network of PyTorch's tutorial on classifiers: pooling twice, functions in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


class Dropping(Net):
    """Dropout between linear layers, and a projection that other code reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(128, 128)
        self.head.insert(3, nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        seen = self.projection(self.features(images).flatten(1))
        return self.head(torch.relu(seen) + seen)


class Pooled(nn.Module):
    """A single linear layer after pooling, as ResNets have; its last block is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(functional.adaptive_avg_pool2d(self.convolution(images), 1).flatten(1))


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = people(3).images


@pytest.mark.parametrize(
    ("kind", "images", "split", "features", "layers"),
    [
        (Classic, IMAGES, "the input of fc1", 400, 3),
        (Net, SMALL, "the input of head.1", 128, 2),
        (Dropping, SMALL, "the input of head.1", 128, 2),
        (Pooled, SMALL, "the input of fc", 6, 1),
    ],
)
def test_the_last_chain_of_linear_layers_is_the_head(
    kind: Callable[[], nn.Module], images: Tensor, split: str, features: int, layers: int
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    shared = split_model(model, None, images)
    assert shared.split == split
    assert deep_features(shared, images).shape == (3, features)
    assert len(head_of(shared, "an attack").layers) == layers
    torch.testing.assert_close(shared(images), model(images))
    names = {name for name, _ in model.named_parameters()}
    assert {shared.names[n] for n in client_update(shared, images, torch.arange(3))} == names


def test_a_frozen_layer_is_before_the_head() -> None:
    torch.manual_seed(0)
    model = Classic()
    model.fc1.requires_grad_(False)
    assert split_model(model, None, IMAGES).split == "the input of fc2"


def test_a_saved_program_is_split_there_too() -> None:
    torch.manual_seed(0)
    program = export(Classic().eval(), (IMAGES,), dynamic_shapes=({0: Dim("n")},))
    assert split_model(program, None, IMAGES).split == "the input of fc1"


@pytest.mark.parametrize(
    "last",
    [nn.Linear(64, 4, bias=False), nn.Sequential(nn.Linear(64, 4), nn.Softplus(), nn.Sigmoid())],
)
def test_where_there_is_no_such_chain_the_split_has_to_be_named(last: nn.Module) -> None:
    model = net()
    model.head[3] = last
    with pytest.raises(UsageError, match=r"no split was found: .* name the submodule after which"):
        split_model(model, None, SMALL)


def test_the_report_names_the_split_that_was_found() -> None:
    said: list[str] = []
    report = audited(net(), None, split=None, truth=people(4), batch_size=4, on_status=said.append)
    assert report.model.split == "the input of head.1"
    assert "the head begins at the input of head.1" in said
    assert report.attacks[-1].certified == 4


def test_units_that_are_the_same_for_everybody_are_said_to_end_demixing() -> None:
    """As right after PyTorch's default initialisation of deep networks."""
    model = net()
    for bias, said in ((torch.full((64,), 10.0), True), (torch.zeros(64), False)):
        with torch.no_grad():
            model.head[1].bias.copy_(bias)
        report = audited(
            model,
            None,
            truth=people(4),
            batch_size=4,
            attacks={"mask_demixing": {"budget": 2, "reflections": 2, "rounds": 1}},
        )
        assert ("in the last hidden layer 0 of 64 units" in report.summary) == said
