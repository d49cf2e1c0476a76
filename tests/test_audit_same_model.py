"""The model that is attacked computes the user's logits and gradients, or it is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditing import SIZE, Net
from leakbench.auditing.copied_model import unwrapped
from leakbench.auditing.model_splitting import split_model
from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update

IMAGES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0])


class Shortcut(nn.Module):
    """The in-place ReLU changes what the shortcut adds afterwards."""

    def __init__(self, inside: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.relu, self.convolution = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)
        self.inside = inside

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(self.inside(self, images)) + images


def _statement(_: nn.Module, images: Tensor) -> Tensor:
    images.relu_()
    return images


IN_PLACE: list[Callable[[nn.Module, Tensor], Tensor]] = [
    lambda block, images: block.relu(images),
    lambda _, images: functional.relu(images, inplace=True),
    lambda _, images: functional.leaky_relu(images, 0.1, True),
    lambda _, images: torch.relu_(images),
    lambda _, images: images.mul_(2),
    _statement,
]


def shortcut(inside: Callable[[nn.Module, Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    model = Net()
    model.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Shortcut(inside), nn.AvgPool2d(2))
    return model


@pytest.mark.parametrize("inside", IN_PLACE)
@pytest.mark.parametrize("split", ["features", "features.1"])
def test_what_is_computed_in_place_is_seen_by_later_readers(
    inside: Callable[[nn.Module, Tensor], Tensor], split: str
) -> None:
    model = shortcut(inside)
    shared = split_model(model, split, IMAGES)
    torch.testing.assert_close(shared(IMAGES), model(IMAGES))
    loss = functional.cross_entropy(model(IMAGES), LABELS)
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    for name, value in client_update(shared, IMAGES, LABELS).items():
        torch.testing.assert_close(value, expected[shared.names[name]])


class Unfollowed(Net):
    """Gradients stop in a block that tracing does not see."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.features(images)
        return self.head(seen)


class View(Net):
    """A view of the feature is changed in place: the feature changes too."""

    def forward(self, images: Tensor) -> Tensor:
        seen = self.features(images)
        seen.flatten(1).mul_(3)
        return self.head(seen)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Unfollowed,
            r"another gradient of 'features.0.weight' than your own model \(relative diff",
        ),
        (View, r"other logits than your own model \(relative difference 0\.\d+\)"),
    ],
)
def test_another_function_or_gradient_is_refused_with_the_difference(
    kind: Callable[[], nn.Module], said: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(UsageError, match=said):
        split_model(kind(), "features", IMAGES)


def test_weight_norm_is_copied() -> None:
    torch.manual_seed(0)
    model = Net()
    model.head[1] = torch.nn.utils.weight_norm(model.head[1])
    shared = split_model(model, "features", IMAGES)
    torch.testing.assert_close(shared(IMAGES), model(IMAGES))
    assert {"head.1.weight_g", "head.1.weight_v"} <= set(shared.names.values())


def test_a_wrapped_model_is_the_model_inside() -> None:
    model = Net()
    assert unwrapped(torch.nn.DataParallel(model)) is model
    compiled = torch.compile(model, backend="eager")
    assert unwrapped(compiled) is model  # type: ignore[arg-type]

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

    mine = Mine()
    assert unwrapped(mine) is mine
