"""How the shared model is trained: optimiser, schedule, augmentation, FedAvg, central training."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients import clients_data
from leakbench.base.cache import cache_folder, stored_tensors
from leakbench.base.choices import Augmentation
from leakbench.base.errors import UsageError
from leakbench.base.seeds import generator_for, seed_for
from leakbench.data.images import to_images
from leakbench.evaluation import shared_training
from leakbench.evaluation.loading import load_individuals
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.evaluation.shared_training import learning_rate_of
from leakbench.experiments.cell import Setup
from leakbench.federation import training
from leakbench.federation.augmentation import augmented
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.client import Client, Update, client_update, gradient
from leakbench.federation.defenses.local_steps import LocalSteps
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.server_optimiser import LearningRate, ServerOptimiser
from leakbench.federation.shared_model import SharedModel, main_task_hits
from leakbench.federation.training import ClientData, check_finite, train


def model(batch_norm: bool = False) -> SharedModel:
    torch.manual_seed(0)
    return SmallCNN(width=4, hidden=16, batch_norm=batch_norm).build(2, 16, "convolutions")


def flat(of: SharedModel) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in of.parameters()])


def whole_gradient(of: SharedModel, data: ClientData) -> Update:
    return client_update(of, to_images(data.images), torch.from_numpy(data.labels))


def test_without_momentum_and_decay_the_weights_move_by_the_mean_update_to_the_bit() -> None:
    data, trained, expected = clients_data(9, 7), model(), model()
    train(trained, data, range(4), learning_rate=0.3, client_batch=4, seed=1)
    for number in range(4):
        mean = [torch.zeros_like(parameter) for parameter in expected.parameters()]
        for k, client in enumerate(data):
            generator = generator_for("training batch", 1, number, k)
            rows = torch.randperm(len(client.labels), generator=generator)[:4].numpy()
            drawn = ClientData(client.images[rows], client.labels[rows])
            for summed, value in zip(mean, whole_gradient(expected, drawn).values(), strict=True):
                summed.add_(value, alpha=len(client.labels) / 16)
        with torch.no_grad():
            for parameter, summed in zip(expected.parameters(), mean, strict=True):
                parameter.sub_(summed, alpha=0.3)
    assert torch.equal(flat(trained), flat(expected))


def test_momentum_and_weight_decay_are_those_of_pytorch_s_sgd() -> None:
    (data,), trained, expected = clients_data(6), model(), model()
    optimiser = ServerOptimiser(trained, momentum=0.9, weight_decay=0.1)
    train(trained, [data], range(3), 0.1, client_batch=6, seed=0, optimiser=optimiser)
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        sgd.zero_grad()
        images, labels = to_images(data.images), torch.from_numpy(data.labels)
        functional.cross_entropy(expected(images), labels).backward()
        sgd.step()
    torch.testing.assert_close(flat(trained), flat(expected))
    plain = model()
    train(plain, [data], range(3), 0.1, client_batch=6, seed=0)
    assert not torch.allclose(flat(plain), flat(expected), atol=1e-3)


def setup(**fields: Any) -> Setup:
    return Setup.model_validate(
        {
            "dataset": "synthetic",
            "dataset_parameters": {"individuals": 200},
            "image_size": 32,
            "properties": ("gender",),
            "main_task": "hat",
            "model_parameters": {"width": 4},
            "property_model": "logistic",
            "clients": 2,
            "rounds": 3,
            "seed": 23,
        }
        | fields
    )


def prepared(of: Setup) -> EvaluationContext:
    return prepare(of, None, "cpu", lambda message: None)


def prepared_weights(of: Setup) -> Tensor:
    found = prepared(of).server.model
    assert found is not None
    return flat(found)


def run_of(of: Setup) -> str:
    return shared_training.training_run(of, load_individuals(of, None).fingerprint, "cpu")


def test_training_goes_on_with_the_momentum_of_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_training, "CHECKPOINT_EVERY", 2)
    of = setup(momentum=0.9, weight_decay=0.01, augmentation="flip")
    from_nothing = prepared_weights(of)
    run = run_of(of)
    held = stored_tensors(f"{run}/round-000002")
    assert held is not None
    assert "momentum.classifier.0.weight" in held
    (cache_folder() / f"{run}/round-000003.safetensors").unlink()
    assert torch.equal(prepared_weights(of), from_nothing)
    (cache_folder() / f"{run}/round-000003.safetensors").unlink()
    monkeypatch.setattr(ServerOptimiser, "load", lambda self, state: None)
    assert not torch.equal(prepared_weights(of), from_nothing)


def test_a_checkpoint_without_momentum_is_the_model_s_state_alone() -> None:
    of = setup()
    context = prepared(of)
    assert context.server.model is not None
    held = stored_tensors(f"{run_of(of)}/round-000003")
    assert held is not None
    assert set(held) == set(context.server.model.state_dict())


def test_a_cosine_goes_from_the_learning_rate_almost_to_0_in_the_attacked_round() -> None:
    rate = learning_rate_of(setup(learning_rate=0.2, rounds=99, schedule="cosine"))
    assert rate.at(0) == 0.2
    assert rate.at(50) == pytest.approx(0.1)
    assert 0 < rate.at(99) < 1e-4
    assert [rate.at(n) for n in range(100)] == sorted(
        (rate.at(n) for n in range(100)), reverse=True
    )
    constant = learning_rate_of(setup(learning_rate=0.2, rounds=99))
    assert {constant.at(n) for n in range(100)} == {0.2}


def test_each_round_takes_the_learning_rate_of_the_schedule() -> None:
    (data,), trained = clients_data(4), model()
    rate, moved = LearningRate(initial=0.5, attacked_round=3), []
    for number in range(3):
        before = flat(trained)
        sent = torch.cat([g.flatten() for g in whole_gradient(trained, data).values()])
        train(trained, [data], range(number, number + 1), rate, client_batch=4, seed=0)
        moved.append(float(((before - flat(trained)) @ sent) / (sent @ sent)))
    assert moved == pytest.approx([rate.at(number) for number in range(3)], rel=1e-4)


@pytest.mark.parametrize("kind", ["flip", "flip_crop"])
def test_augmentation_mirrors_half_of_the_images_and_shifts_them(kind: Augmentation) -> None:
    images = torch.rand(64, 3, 16, 16)
    found = augmented(images, kind, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    shifts = range(-2, 3) if kind == "flip_crop" else range(1)
    mirrored, seen = 0, set()
    for image, changed in zip(images, found, strict=True):
        places = [
            (is_mirrored, down, right)
            for is_mirrored in (False, True)
            for down in shifts
            for right in shifts
            if _inside(changed).equal(_inside(image.flip(2) if is_mirrored else image, down, right))
        ]
        ((is_mirrored, down, right),) = places
        mirrored += is_mirrored
        seen.add((down, right))
    assert 16 < mirrored < 48
    assert len(seen) > 10 if kind == "flip_crop" else seen == {(0, 0)}


def _inside(image: Tensor, down: int = 0, right: int = 0) -> Tensor:
    """The part of an image of 16 px that no shift moves out of it, at a shifted place."""
    return image[:, 2 + down : 14 + down, 2 + right : 14 + right]


def test_augmentation_depends_on_seed_round_and_client_alone() -> None:
    seen: list[Tensor] = []

    def watching(client: Client) -> Update:
        seen.append(client.images)
        return {name: torch.zeros_like(p) for name, p in client.model.named_parameters()}

    (data,) = clients_data(8)
    for rounds in (range(2), range(2), range(1, 2)):
        train(model(), [data, data], rounds, 0.1, 99, 5, watching, augmentation="flip")
    first, again, later = seen[:4], seen[4:8], seen[8:]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[2:], later, strict=True))
    assert not any(torch.equal(first[0], other) for other in first[1:])


def test_federated_averaging_averages_the_weights_that_clients_come_to() -> None:
    data, trained = clients_data(6, 2), model()
    fedavg = LocalSteps(epochs=3).protect(gradient)
    train(trained, data, range(1), 0.1, client_batch=99, seed=0, compute=fedavg)
    expected = torch.zeros_like(flat(trained))
    for client, share in zip(data, (6 / 8, 2 / 8), strict=True):
        local = model()
        sgd = torch.optim.SGD(local.parameters(), lr=0.1)
        for _ in range(3):
            sgd.zero_grad()
            images, labels = to_images(client.images), torch.from_numpy(client.labels)
            functional.cross_entropy(local(images), labels).backward()
            sgd.step()
        expected += share * flat(local)
    torch.testing.assert_close(flat(trained), expected)


def test_a_setup_s_clients_take_local_epochs_over_their_data() -> None:
    synchronous, averaged = setup(rounds=1), setup(rounds=1, local_epochs=2, local_batch=4)
    assert averaged.images_of_round == 2 * synchronous.images_of_round
    split = prepared(synchronous).split
    individuals = load_individuals(averaged, None)
    data = shared_training._client_data(individuals, split, central=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", 23))
        expected = SmallCNN(width=4).build(2, 32, "convolutions")
    train(expected, data, range(1), 0.1, 8, 23, LocalSteps(epochs=2, batch=4).protect(gradient))
    assert torch.equal(prepared_weights(averaged), flat(expected))


def test_the_batches_of_all_clients_move_the_running_statistics() -> None:
    trained, start = model(batch_norm=True), model(batch_norm=True)
    train(trained, clients_data(6, 5, 4), range(2), 0.1, client_batch=3, seed=0)
    for name, layer in batch_norm_layers(trained).items():
        before = batch_norm_layers(start)[name]
        assert layer.num_batches_tracked is not None
        assert int(layer.num_batches_tracked) == 2 * 3
        assert layer.running_mean is not None and before.running_mean is not None
        assert not torch.equal(layer.running_mean, before.running_mean)
    assert not trained.training


def test_a_step_with_one_individual_is_refused_where_batch_norm_cannot_take_it() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.BatchNorm1d(4))
    trained = SharedModel(body, nn.Sequential(nn.Linear(4, 2)))
    steps = LocalSteps(batch=4).protect(gradient)
    with pytest.raises(UsageError, match="so that no step has a single individual"):
        train(trained, clients_data(5), range(1), 0.1, client_batch=5, seed=0, compute=steps)
    train(trained, clients_data(6), range(1), 0.1, client_batch=6, seed=0, compute=steps)


class FrozenBatchNorm(nn.BatchNorm2d):
    """Stays in evaluation mode, as the layers of a frozen stage do."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        return super().train(False)


def test_statistics_of_layers_that_stay_in_evaluation_mode_do_not_move() -> None:
    frozen, free = FrozenBatchNorm(3), nn.BatchNorm2d(4)
    body = nn.Sequential(frozen, nn.Conv2d(3, 4, 3), free, nn.Flatten())
    trained = SharedModel(body, nn.Sequential(nn.Linear(4 * 14 * 14, 2)))
    train(trained, clients_data(4, 4), range(2), 0.01, client_batch=4, seed=0)
    assert frozen.running_mean is not None and free.running_mean is not None
    assert torch.equal(frozen.running_mean, torch.zeros(3))
    assert not torch.equal(free.running_mean, torch.zeros(4))


def test_weights_that_are_not_finite_name_the_round_and_the_learning_rate() -> None:
    with pytest.raises(UsageError, match=r"after round \d+ at the learning rate 1e\+30; lower"):
        train(model(), clients_data(8, 8), range(20), 1e30, client_batch=4, seed=0)
    # Under a defense the cost in utility is what it is.
    train(model(), clients_data(8, 8), range(20), 1e30, client_batch=4, seed=0, may_diverge=True)


def test_a_diverged_model_of_an_old_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = setup(learning_rate=1e30, rounds=4)
    # As before the check.
    for module in (shared_training, training):
        monkeypatch.setattr(module, "check_finite", lambda *of: None)
    with pytest.raises((UsageError, ValueError)):
        prepared(of)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="after round 4 at the learning rate 1e"):
        prepared(of)


def test_the_centrally_trained_model_has_all_clients_as_one() -> None:
    of = setup(central=True, rounds=3, learning_rate=0.5)
    context = prepared(of)
    assert prepared(setup(rounds=3, learning_rate=0.5)).main_task.keys() == (
        context.main_task.keys() - {"central"}
    )
    individuals, split = context.individuals, context.split
    rows = np.concatenate(split.clients)
    pooled = ClientData(np.array(individuals.images[rows]), split.labels[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", 23))
        expected = SmallCNN(width=4).build(2, 32, "convolutions")
    train(expected, [pooled], range(3), 0.5, client_batch=2 * 8, seed=23)
    trained = shared_training.trained_model(
        of, individuals, split, "cpu", lambda message: None, central=True
    )
    assert torch.equal(flat(trained), flat(expected))
    images = to_images(individuals.images[split.victims])
    hits = main_task_hits(expected, images, torch.from_numpy(split.labels[split.victims]))
    assert context.main_task["central"] == hits.float().mean().item()


@pytest.mark.slow
def test_a_run_that_diverges_says_so_in_one_sentence(
    run_here: Callable[..., tuple[int, str]],
) -> None:
    """Case 15: it was an error of scikit-learn, and exit code 1."""
    code, said = run_here("--set", "learning_rate=1e30", "--only", "attack=prior")
    assert code == 2
    assert re.search(r"not finite after round \d at the learning rate 1e\+30; lower", said)
    assert "Error" not in said


def test_weights_so_large_that_outputs_overflow_are_refused() -> None:
    grown = model()
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.fill_(1e30)
    check_finite(grown, 4, 0.1)
    with pytest.raises(UsageError, match="outputs are not finite after round 5 at"):
        check_finite(grown, 4, 0.1, torch.rand(2, 3, 16, 16))
