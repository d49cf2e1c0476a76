"""What each defense does to an update, in closed form."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, pi
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from clients import client, flat, small_model
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import DEFENSES
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.quantise import rounded, sign_of
from leakbench.federation.defenses.soteria import estimated_norms, jacobian_norms, sensitivity
from leakbench.federation.defenses.sparsify import ZERO_RELIABILITY
from leakbench.federation.shared_model import SharedModel


def defense(name: str, **parameters: Any) -> Defense:
    built: Defense = build(DEFENSES, name, parameters)
    return built


def sent(by: Client, name: str, **parameters: Any) -> Update:
    return defense(name, **parameters).protect(gradient)(by)


def assert_equal(update: Update, expected: Update) -> None:
    assert list(update) == list(expected)
    for name, value in expected.items():
        assert torch.equal(update[name], value), name


def assert_close(update: Update, expected: Update) -> None:
    assert list(update) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(update[name], value, rtol=1e-4, atol=1e-6)


def sums_to(target: Tensor) -> Any:
    """How to compute an update that is one tensor."""
    return lambda client: {"w": target}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gaussian", {"sigma": 0.0}),
        ("laplace", {"sigma": 0.0}),
        ("sparsify", {"fraction": 1.0}),
        ("sparsify", {"fraction": 1.0, "choice": "random", "scope": "global"}),
        ("local_steps", {}),
        ("local_steps", {"batch": 9}),
        ("secure_aggregation", {"of": 1}),
        ("clip", {"norm": 1e6}),
        (
            "composed",
            {"defenses": [{"name": "gaussian", "sigma": 0}, {"name": "local_steps"}][::-1]},
        ),
    ],
)
def test_a_defense_that_changes_nothing_gives_the_gradient_bit_for_bit(
    name: str, parameters: dict[str, Any]
) -> None:
    assert_equal(sent(client(3), name, **parameters), gradient(client(3)))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_noise_has_the_asked_variance(name: str) -> None:
    noise = defense(name, sigma=0.3).protect(sums_to(torch.zeros(400_000)))(client(1))["w"]
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    assert noise.var().item() == pytest.approx(0.09, rel=0.02)
    # The mean magnitude tells the two from each other.
    magnitude = 0.3 * {"gaussian": (2 / pi) ** 0.5, "laplace": 0.5**0.5}[name]
    assert noise.abs().mean().item() == pytest.approx(magnitude, rel=0.01)


def test_clipping_scales_a_long_update_and_leaves_a_short_one() -> None:
    plain = flat(gradient(client(3)))
    clipped = flat(sent(client(3), "clip", norm=0.25 * plain.norm().item()))
    torch.testing.assert_close(clipped, 0.25 * plain)
    shorter = flat(sent(client(3), "clip", norm=2 * plain.norm().item()))
    assert torch.equal(shorter, plain)


def test_clipping_s_surrogate_clips_each_run_and_has_a_gradient() -> None:
    runs = {"w": torch.tensor([[3.0, 0.0], [0.3, 0.4]]), "b": torch.tensor([[4.0], [0.0]])}
    runs["w"].requires_grad_()
    clipped = defense("clip", norm=1.0).surrogate(runs)
    torch.testing.assert_close(clipped["w"], torch.tensor([[0.6, 0.0], [0.3, 0.4]]))
    torch.testing.assert_close(clipped["b"], torch.tensor([[0.8], [0.0]]))
    clipped["w"].sum().backward()
    assert runs["w"].grad is not None


def of_each(of: Client) -> list[Update]:
    """The gradient of each individual alone."""
    return [
        gradient(replace(of, images=image[None], labels=label[None]))
        for image, label in zip(of.images, of.labels, strict=True)
    ]


def test_dp_sgd_is_the_mean_of_each_individual_s_clipped_gradient() -> None:
    each = torch.stack([flat(alone) for alone in of_each(client(5))])
    norms = each.norm(dim=1)
    clip = norms.median().item()
    expected = (each * (clip / norms).clamp_max(1)[:, None]).mean(0)
    torch.testing.assert_close(
        flat(sent(client(5), "dp_sgd", clip=clip, noise=0.0)), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("individuals", [1, 6])
def test_dp_sgd_that_clips_nothing_is_the_plain_gradient(individuals: int) -> None:
    update = sent(client(individuals), "dp_sgd", clip=1e6, noise=0.0)
    assert_close(update, gradient(client(individuals)))


def test_dp_sgd_s_noise_is_that_of_the_sum_over_the_number_of_individuals() -> None:
    loud, silent = (
        flat(sent(client(4, width=16), "dp_sgd", clip=0.5, noise=noise)) for noise in (3.0, 0.0)
    )
    noise = loud - silent
    assert len(noise) > 30_000
    assert noise.var().item() == pytest.approx((3.0 * 0.5 / 4) ** 2, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_dp_sgd_refuses_batch_norm(mode: Any) -> None:
    of = client(2, batch_norm=True)
    with pytest.raises(UsageError, match=r"'dp_sgd' needs a model without BatchNorm.*extractor\.2"):
        sent(replace(of, model=in_mode(of.model, mode)), "dp_sgd", clip=1.0, noise=1.0)


@pytest.mark.parametrize("norm", [0.5, 1e3])
def test_dp_sgd_agrees_with_opacus_s_gradient(norm: float) -> None:
    opacus = pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    from opacus.optimizers import DPOptimizer

    of = client(5)
    model = opacus.GradSampleModule(small_model().train())
    for parameter in model.parameters():
        parameter.requires_grad_()
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=norm,
        expected_batch_size=5,
    )
    torch.nn.functional.cross_entropy(model(of.images), of.labels).backward()
    assert optimizer.pre_step()
    theirs = {name.removeprefix("_module."): p.grad for name, p in model.named_parameters()}
    ours = sent(of, "dp_sgd", clip=norm, noise=0.0)
    assert list(theirs) == list(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_epsilon_is_that_of_opacus_s_accountant() -> None:
    accountants = pytest.importorskip(
        "opacus.accountants", reason="the extra `opacus` is not installed"
    )
    accountant = accountants.RDPAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    private = defense("dp_sgd", clip=1.0, noise=1.1)
    found = private.epsilon(0.05, 50, 1e-3)
    assert found == pytest.approx(accountant.get_epsilon(1e-3))
    assert defense("dp_sgd", clip=7.0, noise=1.1).epsilon(0.05, 50, 1e-3) == found
    assert defense("dp_sgd", clip=1.0, noise=0.0).epsilon(0.05, 50, 1e-3) is None
    assert defense("gaussian", sigma=1.0).epsilon(0.05, 50, 1e-3) is None


def test_an_individual_that_is_used_n_times_a_round_costs_as_much_as_n_rounds_of_all() -> None:
    """Where everybody is in every batch there is no subsampling to tell the two apart."""
    pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    table = {"name": "dp_sgd", "clip": 1.0, "noise": 4.0}
    stepping = defense("composed", defenses=[table, {"name": "local_steps", "epochs": 3}])
    alone = defense("dp_sgd", clip=1.0, noise=4.0)
    assert stepping.epsilon(1.0, 10, 1e-3) == pytest.approx(alone.epsilon(1.0, 30, 1e-3))
    assert stepping.epsilon(0.1, 10, 1e-3) > alone.epsilon(0.1, 10, 1e-3)  # type: ignore[operator]


@pytest.mark.filterwarnings("error")
def test_an_epsilon_that_says_nothing_is_found_without_a_warning() -> None:
    pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    found = defense("dp_sgd", clip=1.0, noise=0.1).epsilon(0.05, 50, 1e-3)
    assert found is not None
    assert found > 100


def test_without_opacus_there_is_no_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leakbench.federation.defenses.dp_sgd.find_spec", lambda name: None)
    assert defense("dp_sgd", clip=1.0, noise=1.1).epsilon(0.05, 50, 1e-3) is None


FRACTIONS = [0.5, 0.1, 0.07, 0.01, 1e-9]


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_largest_entries_of_each_tensor_are_kept_and_no_others(fraction: float) -> None:
    plain = gradient(client(2))
    update = sent(client(2), "sparsify", fraction=fraction)
    for name, value in plain.items():
        flattened, kept = value.flatten(), update[name].flatten()
        count = max(1, ceil(round(fraction * value.numel(), 6)))
        threshold = flattened.abs().sort(descending=True).values[count - 1]
        if threshold > 0:
            assert int((kept != 0).sum()) == count
        assert torch.equal(kept[kept != 0], flattened[kept != 0])
        assert (flattened[kept == 0].abs() <= threshold).all()
        assert (flattened[kept != 0].abs() >= threshold).all()


@pytest.mark.parametrize("choice", ["largest", "random"])
@pytest.mark.parametrize(("fraction", "count"), [(0.07, 7), (0.071, 8), (1e-6, 1), (0.99, 99)])
def test_exactly_so_many_are_kept_among_equals(choice: str, fraction: float, count: int) -> None:
    equal = torch.full((10, 10), -2.0)
    made = defense("sparsify", fraction=fraction, choice=choice).protect(sums_to(equal))
    kept = made(client(1))["w"]
    assert int((kept != 0).sum()) == count
    assert kept.unique().tolist() == [-2.0, 0.0]


def test_the_largest_of_all_tensors_together_are_kept() -> None:
    plain = flat(gradient(client(2)))
    kept = flat(sent(client(2), "sparsify", fraction=0.01, scope="global"))
    count = ceil(0.01 * len(plain))
    expected = torch.zeros_like(plain)
    largest = plain.abs().argsort(descending=True)[:count]
    expected[largest] = plain[largest]
    assert torch.equal(kept, expected)


def test_random_entries_are_other_ones_with_another_draw_and_evenly_spread() -> None:
    made = defense("sparsify", fraction=0.25, choice="random").protect(sums_to(torch.ones(100)))
    kept = torch.stack([made(client(1, seed=seed))["w"] for seed in range(400)])
    assert (kept.sum(1) == 25).all()
    assert kept.mean(0).min() > 0.15
    assert kept.mean(0).max() < 0.35


def test_what_was_withheld_at_random_is_not_believed_and_what_is_not_among_the_largest_less() -> (
    None
):
    update = {"w": torch.tensor([[0.0, 2.0], [-1e-9, 0.0]])}
    for choice, zero in (("random", 0.0), ("largest", ZERO_RELIABILITY)):
        reliability = defense("sparsify", fraction=0.5, choice=choice).reliability(update, 1)["w"]
        torch.testing.assert_close(reliability, torch.tensor([[zero, 1], [1, zero]]))
    assert defense("sparsify", fraction=1.0).reliability(update, 1) == {}


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    made = defense("quantise", bits=1).protect(sums_to(torch.tensor([[3.0, -1.0], [2.0, -2.0]])))
    assert made(client(1))["w"].tolist() == [[2.0, -2.0], [2.0, -2.0]]


def test_one_bit_cannot_tell_a_zero() -> None:
    value = torch.cat([torch.zeros(10_000), torch.ones(10_000)])
    signs = sign_of(value, torch.Generator().manual_seed(0))
    assert signs.unique().tolist() == [-0.5, 0.5]
    assert (signs[10_000:] == 0.5).all()
    assert (signs[:10_000] > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_more_bits_are_evenly_spaced_levels_with_zero_and_both_ends(bits: int) -> None:
    value = torch.linspace(-1, 0.5, 1001)
    levels = 2 ** (bits - 1) - 1
    found = defense("quantise", bits=bits).protect(sums_to(value))(client(1))["w"]
    multiples = found * levels
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-4)
    assert multiples.abs().max().round() == levels
    assert found[0] == -1
    assert ((found - value).abs() <= 1 / levels + 1e-6).all()
    assert torch.equal(rounded(torch.zeros(3), levels, torch.Generator()), torch.zeros(3))


@pytest.mark.parametrize("bits", [2, 4])
def test_rounding_is_unbiased(bits: int) -> None:
    value, draws = torch.tensor([1.0, -0.8, 0.31, -0.04, 0.0]), 20_000
    levels = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(3)
    mean = torch.stack([rounded(value, levels, generator) for _ in range(draws)]).mean(0)
    # Four standard errors of what varies most, a value halfway between two levels.
    torch.testing.assert_close(mean, value, rtol=0, atol=4 * 0.5 / levels / draws**0.5)


def test_a_smooth_sign_is_near_the_sign_of_large_entries_and_has_a_gradient() -> None:
    runs = torch.tensor([[[5.0, -5.0], [0.0, 5.0]], [[1.0, 1.0], [-1.0, 0.0]]], requires_grad=True)
    smooth = defense("quantise", bits=1).surrogate({"w": runs})["w"]
    assert (smooth.sign() == runs.sign()).all()
    assert smooth[0, 0, 0].item() == pytest.approx(3.75 * 0.82, abs=0.05)
    (slope,) = torch.autograd.grad(smooth[0].sum(), runs)
    assert (slope[0] != 0).all()
    assert (slope[1] == 0).all()
    same = {"w": runs}
    assert defense("quantise", bits=2).surrogate(same) is same


@pytest.mark.parametrize(("bits", "error"), [(4, 0.02), (8, 1e-3)])
def test_rounding_is_believed_as_far_as_it_is_signal(bits: int, error: float) -> None:
    value = 2 * torch.rand(50_000, generator=torch.Generator().manual_seed(1)) - 1
    quantise = defense("quantise", bits=bits)
    received = quantise.protect(sums_to(value))(client(1))
    share = value.square().sum() / received["w"].square().sum()
    assert quantise.reliability(received, 1)["w"].item() == pytest.approx(share.item(), abs=error)


def test_of_coarse_rounding_little_is_believed_but_something() -> None:
    """Of a heavy-tailed tensor in two bits most of what is received is rounding."""
    value = torch.randn(50_000, generator=torch.Generator().manual_seed(1)) ** 3
    quantise = defense("quantise", bits=2)
    received = quantise.protect(sums_to(value))(client(1))
    share = (value.square().sum() / received["w"].square().sum()).item()
    assert share < 0.2
    assert 0 < quantise.reliability(received, 1)["w"].item() <= share


def test_soteria_zeroes_the_columns_of_the_least_sensitive_features_alone() -> None:
    of = client(3)
    update, plain = sent(of, "soteria", fraction=0.3, probes=0), gradient(client(3))
    scores = sensitivity(of.model.extractor, of.images, 0, of.generator)
    weight = "classifier.0.weight"
    columns = scores.argsort()[: ceil(0.3 * 64)]
    expected = plain[weight].clone()
    expected[:, columns] = 0
    assert torch.equal(update[weight], expected)
    assert_equal(
        {n: v for n, v in update.items() if n != weight},
        {n: v for n, v in plain.items() if n != weight},
    )
    assert not torch.equal(expected, plain[weight])


def test_soteria_s_scores_are_norms_of_the_jacobian_over_the_feature() -> None:
    of = client(2)
    jacobian = torch.autograd.functional.jacobian(of.model.extractor, of.images)
    own = torch.stack([jacobian[i, :, i].flatten(1).norm(dim=1) for i in range(2)])
    torch.testing.assert_close(jacobian_norms(of.model.extractor, of.images), own)
    features = of.model.extractor(of.images)
    scores = sensitivity(of.model.extractor, of.images, 0, of.generator)
    assert scores.isfinite().all()
    alive = (features != 0).all(0)
    assert 0 < int(alive.sum()) < 64
    expected = (own / features.abs()).mean(0)
    torch.testing.assert_close(scores[alive], expected[alive])
    assert (scores[(features == 0).all(0)] == 0).all()


def test_probes_estimate_the_norms_without_bias() -> None:
    of = client(1)
    exact = jacobian_norms(of.model.extractor, of.images)
    estimated = estimated_norms(of.model.extractor, of.images, 2_000, of.generator)
    error = (estimated / exact - 1)[exact > 0]
    assert error.abs().max() < 4 / (2 * 2_000) ** 0.5
    assert error.mean().abs() < 0.005
    assert (estimated[exact == 0] == 0).all()


def test_soteria_believes_the_columns_that_were_sent() -> None:
    update = sent(client(3), "soteria", fraction=0.5)
    reliability = defense("soteria", fraction=0.5).reliability(update, 3)
    assert list(reliability) == ["classifier.0.weight"]
    believed = reliability["classifier.0.weight"]
    assert believed.shape == (1, 64)
    assert torch.equal(believed[0] == 0, (update["classifier.0.weight"] == 0).all(0))
    assert int((believed == 0).sum()) >= 32


def test_soteria_leaves_batch_norm_s_statistics_to_training() -> None:
    """It looks at the features once more, which must not count as another batch."""
    plain, defended = client(3, batch_norm=True), client(3, batch_norm=True)
    plain.model.train()
    defended.model.train()
    gradient(plain)
    sent(defended, "soteria", fraction=0.5)
    for ours, theirs in zip(defended.model.buffers(), plain.model.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_soteria_refuses_a_classifier_that_reads_something_else() -> None:
    of = client(2)
    classifier = torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.Linear(32, 8))
    with pytest.raises(UsageError, match="'soteria' needs a classifier that begins with a linear"):
        sent(
            replace(of, model=SharedModel(of.model.extractor, classifier)), "soteria", fraction=0.5
        )


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


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gaussian", {"sigma": -1}, r"'gaussian': sigma: .*greater than or equal to 0 \(got -1\)"),
        ("laplace", {"sigma": -0.1}, r"'laplace': sigma: .*\(got -0\.1\)"),
        ("gaussian", {}, r"'gaussian': key 'sigma' is missing"),
        ("sparsify", {"fraction": 0}, r"'sparsify': fraction: .*greater than 0 \(got 0\)"),
        ("sparsify", {"fraction": 1.1}, r"'sparsify': fraction: .*less than .*1 \(got 1\.1\)"),
        ("sparsify", {"fraction": 0.5, "choice": "first"}, r"choice: .*'largest'.*'first'"),
        ("soteria", {"fraction": 0.0}, r"'soteria': fraction: .*\(got 0\.0\)"),
        ("soteria", {"fraction": 2.0}, r"'soteria': fraction: .*\(got 2\.0\)"),
        ("quantise", {"bits": 0}, r"'quantise': bits: .*greater than or equal to 1 \(got 0\)"),
        ("dp_sgd", {"clip": 0, "noise": 1}, r"'dp_sgd': clip: .*greater than 0 \(got 0\)"),
        ("dp_sgd", {"clip": 1, "noise": -1}, r"'dp_sgd': noise: .*\(got -1\)"),
        ("clip", {"norm": 0}, r"'clip': norm: .*\(got 0\)"),
        ("local_steps", {"epochs": 0}, r"'local_steps': epochs: .*\(got 0\)"),
        ("local_steps", {"batch": 0}, r"'local_steps': batch: .*\(got 0\)"),
        ("secure_aggregation", {"of": 0}, r"'secure_aggregation': of: .*\(got 0\)"),
        ("gausian", {"sigma": 1}, r"unknown defense 'gausian'; did you mean gaussian"),
    ],
)
def test_a_parameter_that_does_not_fit_is_one_sentence(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        defense(name, **parameters)
    assert "\n" not in str(caught.value)
