"""Training is synchronous SGD, and can stop and go on at any round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clients import clients_data
from leakbench.base.cache import cache_folder
from leakbench.base.errors import UsageError
from leakbench.base.seeds import generator_for
from leakbench.data.images import to_images
from leakbench.evaluation import shared_training
from leakbench.evaluation.loading import load_individuals
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Setup
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel
from leakbench.federation.training import train


def model() -> SharedModel:
    torch.manual_seed(0)
    return SmallCNN(width=4).build(2, 16, "convolutions")


def weights(of: SharedModel) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in of.parameters()])


def test_clients_weigh_by_the_size_of_their_data() -> None:
    data = clients_data(6, 2)
    trained, expected = model(), weights(model())
    train(trained, data, range(1), learning_rate=0.5, client_batch=99, seed=7)
    for client, share in zip(data, (6 / 8, 2 / 8), strict=True):
        gradient = client_update(model(), to_images(client.images), torch.tensor(client.labels))
        expected -= 0.5 * share * torch.cat([g.flatten() for g in gradient.values()])
    torch.testing.assert_close(weights(trained), expected)


def test_whole_clients_of_any_sizes_make_the_gradient_of_all_data() -> None:
    data = clients_data(5, 3, 1)
    trained, start = model(), model()
    train(trained, data, range(1), learning_rate=1.0, client_batch=99, seed=0)
    images = to_images(np.concatenate([client.images for client in data]))
    labels = torch.from_numpy(np.concatenate([client.labels for client in data]))
    whole = torch.cat([g.flatten() for g in client_update(start, images, labels).values()])
    torch.testing.assert_close(weights(start) - weights(trained), whole, rtol=1e-4, atol=1e-6)


def test_training_in_two_parts_gives_the_weights_of_training_in_one() -> None:
    data = clients_data(9, 7)
    whole, parts = model(), model()
    train(whole, data, range(6), learning_rate=0.1, client_batch=4, seed=1)
    train(parts, data, range(2), learning_rate=0.1, client_batch=4, seed=1)
    train(parts, data, range(2, 6), learning_rate=0.1, client_batch=4, seed=1)
    assert torch.equal(weights(whole), weights(parts))


def setup(rounds: int, seed: int = 0) -> Setup:
    return Setup(
        dataset="synthetic",
        dataset_parameters={"individuals": 200},
        image_size=32,
        properties=("gender",),
        main_task="hat",
        model_parameters={"width": 4},
        clients=2,
        rounds=rounds,
        seed=seed,
    )


def prepared_weights(rounds: int, seed: int) -> Tensor:
    found = prepare(setup(rounds, seed), None, "cpu", lambda message: None).server.model
    assert found is not None
    return weights(found)


def test_training_goes_on_from_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_training, "CHECKPOINT_EVERY", 2)
    from_nothing = prepared_weights(5, seed=11)
    run = next((cache_folder() / "models").glob(f"{training_key(5, 11)}-cpu"))
    names = sorted(file.name for file in run.glob("*.safetensors"))
    assert names == [f"round-{n:06d}.safetensors" for n in (0, 2, 4, 5)]
    (run / "round-000005.safetensors").unlink()
    trained: list[range] = []

    def spy(model: SharedModel, clients: Any, rounds: range, *settings: Any, **others: Any) -> None:
        trained.append(rounds)
        train(model, clients, rounds, *settings, **others)

    monkeypatch.setattr(shared_training, "train", spy)
    assert torch.equal(prepared_weights(5, seed=11), from_nothing)
    assert trained == [range(4, 5)]


def training_key(rounds: int, seed: int) -> str:
    of = setup(rounds, seed)
    return of.training_key(load_individuals(of, None).fingerprint)


def test_an_update_is_the_gradient_of_the_mean_over_the_batch() -> None:
    images, labels = torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 1])
    whole = client_update(model(), images, labels)
    each = [client_update(model(), images[i : i + 1], labels[i : i + 1]) for i in range(3)]
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, sum(e[name] for e in each) / 3)


def test_generators_differ_by_purpose() -> None:
    draws = {
        torch.rand(1, generator=generator_for(*parts)).item()
        for parts in ((0, 1), (1, 0), ("01",), ("0", 1))
    }
    assert len(draws) == 4


@pytest.mark.parametrize(
    ("architecture", "size", "split", "named"),
    [
        (LeNet(), 32, "hidden", "lenet cannot be split after 'hidden'"),
        (SmallCNN(), 30, "convolutions", "image size 30"),
        (SmallCNN(), 32, "nowhere", "'nowhere'; choose from convolutions, hidden"),
    ],
)
def test_a_size_or_split_that_a_model_lacks_is_named(
    architecture: Architecture, size: int, split: str, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        architecture.check(size, split)


@pytest.mark.parametrize("split", ["convolutions", "hidden"])
def test_the_split_moves_no_weight(split: str) -> None:
    torch.manual_seed(0)
    built = SmallCNN(width=4).build(2, 16, split)
    assert torch.equal(weights(built), weights(model()))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(built(images), model()(images))
    assert built.features(images).shape == (2, 256 if split == "hidden" else 64)
