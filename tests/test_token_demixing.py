"""Facts about token demixing: who is found, what is certified, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from convolutional_planting import SHAPE, PlantedImages, network
from leakbench.attacks.demixable_ends.registry import demixable_ends
from leakbench.attacks.linear_layers.head import LINEAR_LAYERS
from leakbench.attacks.token_demixing import TokenDemixing
from leakbench.attacks.token_ends.end import Normalisation
from leakbench.attacks.token_ends.rules import TOKEN
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation.loss import Loss
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import CERTIFIED
from planting import best_cosines, found_in, planted
from token_planting import (
    LENGTH,
    SEARCH,
    WORDS,
    planted_texts,
    planted_tokens,
    text_classifier,
    vision_transformer,
)


def assert_everybody_is_found(batch: PlantedImages) -> None:
    found = batch.found()
    assert found.certified.tolist() == [True] * len(batch.labels)
    apart = torch.cdist(batch.features.double(), found.features)
    nearest = found.features[apart.argmin(1)].float()
    torch.testing.assert_close(nearest, batch.features, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.labels[apart.argmin(1)], batch.labels)


@pytest.mark.parametrize(("classes", "individuals"), [(2, 1), (2, 6), (10, 8)])
def test_everybody_in_images_is_found_exactly_with_their_labels(
    classes: int, individuals: int
) -> None:
    assert_everybody_is_found(planted_tokens(individuals, vision_transformer(0, classes)))


def test_someone_of_whose_label_the_model_is_almost_sure_is_certified() -> None:
    """One has a probability of 0.99, and an x that is as much shorter as it is nearer to noise."""
    batch = planted_tokens(4, vision_transformer(6), 6)
    sure = batch.model(batch.images).softmax(1)[torch.arange(4), batch.labels]
    assert sure.max() > 0.99
    assert_everybody_is_found(batch)


@pytest.mark.parametrize("norm_first", [False, True])
def test_everybody_in_texts_is_found_exactly_with_their_labels(norm_first: bool) -> None:
    assert_everybody_is_found(planted_texts(5, text_classifier(0, 3, norm_first)))


def test_of_a_token_within_the_text_too() -> None:
    assert_everybody_is_found(planted_texts(3, text_classifier(picked=4)))


def test_who_is_certain_to_the_model_is_not_found_and_others_are_not_certified_falsely() -> None:
    model = vision_transformer()
    with torch.no_grad():
        model.classifier[0].weight.mul_(40)
    batch = planted_tokens(4, model)
    assert batch.falsely_certified(batch.found()) == 0


def test_derivatives_of_normalisation_are_those_of_layer_norm() -> None:
    layer = nn.LayerNorm(6).double()
    nn.init.normal_(layer.weight)
    inputs = torch.randn(3, 6).double().requires_grad_()
    errors = torch.randn(3, 6).double()
    (expected,) = torch.autograd.grad((layer(inputs) * errors).sum(), inputs)
    own = Normalisation(layer.weight.detach(), layer.bias.detach(), layer.eps)
    torch.testing.assert_close(own.forward(inputs.detach()), layer(inputs).detach())
    torch.testing.assert_close(own.backward(inputs.detach(), errors), expected)


def hidden_head() -> SharedModel:
    model = vision_transformer()
    layers = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 2))
    return SharedModel(model.extractor, layers).eval()


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (network(), "its deep features are no token after LayerNorm"),
        (hidden_head(), "take mask_demixing or newton_demixing"),
    ],
    ids=["convolution", "hidden layer"],
)
def test_other_networks_are_refused_by_what_they_have(model: SharedModel, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        TokenDemixing().end(model, torch.rand(2, *SHAPE))


def test_an_average_over_all_tokens_is_refused() -> None:
    texts = torch.randint(WORDS, (2, LENGTH))
    with pytest.raises(UsageError, match="its deep features are no token after LayerNorm"):
        TokenDemixing().end(text_classifier(picked=None), texts)


class TwoTokens(nn.Module):
    """A token to which another one is added after the last block."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder.layers(self.encoder.words(tokens) + self.encoder.positions)
        return hidden[:, 0] + 0.0 * hidden[:, 1] + (hidden[:, 1] - hidden[:, 1].detach())


def test_a_second_token_that_reaches_the_loss_is_noticed_in_the_gradient() -> None:
    """Its values are those of one token, its gradient is not."""
    model = text_classifier()
    model.extractor = TwoTokens(model.extractor)
    with pytest.raises(UsageError, match="more than one token of each individual"):
        TokenDemixing().end(model, torch.randint(WORDS, (2, LENGTH)))


def test_frozen_layers_are_refused() -> None:
    parameters = {"input_size": 32, "patch": 16, "hidden_layers": 0, "trained": "head"}
    shared = build(MODELS, "vit_small", parameters).build(2, 32, "convolutions").eval()
    with pytest.raises(UsageError, match="clients do not send all of them"):
        TokenDemixing().end(shared, torch.rand(2, 3, 32, 32))


def test_other_losses_are_refused() -> None:
    batch = planted_tokens(2, vision_transformer())
    batch.model.loss = Loss(label_smoothing=0.1)
    with pytest.raises(UsageError, match="demixes the gradient of the mean cross-entropy, and"):
        SEARCH.recovered(batch.server, [], lambda share: None)


def test_newton_demixing_finds_everybody_before_hardswish() -> None:
    """The head of MobileNetV3."""
    batch = planted(8, 4)
    layers = [nn.Hardswish() if isinstance(m, nn.ReLU) else m for m in batch.model.classifier]
    batch = replace(batch, model=SharedModel(nn.Identity(), nn.Sequential(*layers)))
    (found,) = found_in([batch])
    assert found.certified.tolist() == [True] * 8
    assert best_cosines(found, batch.features).min() > CERTIFIED


def test_an_update_that_is_not_finite_tells_nobody() -> None:
    batch = planted_tokens(2, vision_transformer())
    update = {name: torch.full_like(value, torch.nan) for name, value in batch.update.items()}
    assert not len(batch.found(update))


def test_models_are_asked_for_their_token_ends() -> None:
    ends = demixable_ends(vision_transformer(), torch.rand(2, *SHAPE))
    assert set(ends) >= {TOKEN, LINEAR_LAYERS}


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["vit_small", "vit_b_16"])
def test_networks_that_people_deploy_have_a_token_end(name: str) -> None:
    parameters = {"input_size": 32, "hidden_layers": 0}
    shared = build(MODELS, name, parameters).build(2, 32, "convolutions").eval()
    images = torch.rand(3, 3, 32, 32)
    batch = PlantedImages(
        shared, images, torch.tensor([0, 1, 0]), torch.rand(32, 3, 32, 32), replace(SEARCH)
    )
    assert_everybody_is_found(batch)
