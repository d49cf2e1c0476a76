"""Several local steps, and several clients that are aggregated securely."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from clients import assert_close, client, defense, sent
from leakbench.base.errors import UsageError
from leakbench.federation.client import Client, Update, gradient


def test_several_steps_send_how_far_the_weights_came() -> None:
    """Two epochs of the whole batch, step by step, as federated averaging does it."""
    of = client(4)
    start = {name: p.detach().clone() for name, p in of.model.named_parameters()}
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(
            functional_call(of.model, weights, (of.images,)), of.labels
        )
        steps = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (w - 0.1 * step).detach().requires_grad_()
            for (name, w), step in zip(weights.items(), steps, strict=True)
        }
    update = sent(of, "local_steps", epochs=3)
    for name, value in update.items():
        moved = (start[name] - weights[name].detach()) / 0.1
        torch.testing.assert_close(value, moved, rtol=1e-3, atol=1e-5)


def test_each_epoch_takes_every_individual_once_in_an_order_of_its_own() -> None:
    of, seen = client(7), []

    def watching(inner: Client) -> Update:
        seen.append(inner.images)
        return {n: torch.zeros_like(p) for n, p in inner.model.named_parameters()}

    stepping = defense("local_steps", epochs=2, batch=3)
    stepping.protect(watching)(of)
    assert [len(images) for images in seen] == [3, 3, 1] * 2
    epochs = [torch.cat(seen[:3]), torch.cat(seen[3:])]
    for epoch in epochs:
        rows = [next(i for i in range(7) if torch.equal(of.images[i], image)) for image in epoch]
        assert sorted(rows) == list(range(7))
    assert not torch.equal(*epochs)


def test_local_steps_keep_batch_norm_s_statistics_going() -> None:
    once, twice = client(4, batch_norm=True), client(4, batch_norm=True)
    twice.model.train()
    once.model.train()
    gradient(once)
    sent(twice, "local_steps", epochs=2)
    counted = {n: b for n, b in twice.model.named_buffers() if n.endswith("num_batches_tracked")}
    assert {int(count) for count in counted.values()} == {2}
    assert all(
        torch.equal(a, b)
        for a, b in zip(once.model.parameters(), twice.model.parameters(), strict=True)
    )


def test_clients_aggregated_securely_give_the_gradient_of_one_larger_batch() -> None:
    update = sent(client(8), "secure_aggregation", of=4)
    assert_close(update, gradient(client(8)))
    assert defense("secure_aggregation", of=4).clients == 4
    assert defense("secure_aggregation", of=4).client_part() is None


def test_clients_aggregated_securely_are_computed_apart_and_one_after_another() -> None:
    """Each clips and draws by itself; the second goes on where the first left the generator."""
    of = client(4)
    noisy = defense("gaussian", sigma=0.1).protect(gradient)
    generator = torch.Generator().manual_seed(0)
    halves = [
        noisy(replace(of, images=images, labels=labels, generator=generator))
        for images, labels in zip(of.images.split(2), of.labels.split(2), strict=True)
    ]
    together = defense("secure_aggregation", of=2).protect(noisy)(client(4))
    assert_close(together, {name: (halves[0][name] + halves[1][name]) / 2 for name in together})


def test_individuals_that_cannot_be_divided_among_clients_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot divide 5 individuals among 2 clients"):
        sent(client(5), "secure_aggregation", of=2)
