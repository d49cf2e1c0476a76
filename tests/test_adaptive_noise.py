"""Facts about attacks that know the noise, and what knowing a defense is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from defended_models import CLASSES, IMAGE, RATE, Kept, Squashed, Steps, batch, draw, model_of, sent
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching.distance import (
    squared_error_at_best_scale,
    weighted,
)
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Victim
from leakbench.attacks.matching.posterior import (
    image_prior,
    masked,
    mostly_noise,
    noise_variance,
    weighed,
)
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, FeatureSpace, Server


def noisy(sigma: float, reliability: dict[str, Tensor] | None = None) -> Victim:
    """A signal of energy 2,000 in 2,000 entries, in two tensors, with noise of variance σ²."""
    signal = {"a": torch.ones(40, 30), "b": -torch.ones(800)}
    noise = torch.Generator().manual_seed(0)
    update = {
        name: value + sigma * torch.randn(value.shape, generator=noise)
        for name, value in signal.items()
    }
    known = (
        GaussianNoise(sigma=sigma).reliability(update, 1) if reliability is None else reliability
    )
    return Victim(update, None, 1, 0, reliability=known)


def server_of(model: SharedModel, defense: Defense | None) -> Server:
    auxiliary = Auxiliary(
        draw(80, *IMAGE, seed=9).float(), torch.arange(80) % CLASSES, {}, torch.arange(80)
    )
    return Server(
        CLASSES,
        IMAGE,
        (),
        model=model,
        auxiliary=auxiliary,
        feature_space=FeatureSpace(model.features(auxiliary.images), lambda features: {}),
        learning_rate=RATE,
        defense=defense,
        compiling="off",
    )


def reached(
    attack: GradientMatching,
    defense: Defense,
    model: SharedModel,
    size: int,
    known: bool,
    victims: int = 3,
) -> float:
    """The mean cosine of reconstructed features, matched to the nearest."""
    model = model.float()
    server = server_of(model, defense if known else None)
    cosines = []
    for seed in range(victims):
        images, labels = batch(size, seed=100 + seed)
        images = images.float()
        update = sent(defense, model, images, labels)
        (found,) = attack.infer(
            server, [Observation(size, seed, update, labels)], lambda share: None
        )
        assert found.features is not None
        true = model.features(images).detach()
        between = functional.cosine_similarity(found.features[:, None], true[None], dim=2)
        cosines.append(float(between.max(1).values.mean()))
    return sum(cosines) / victims


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0, 50.0])
def test_the_noise_s_variance_is_read_off_what_is_believed(sigma: float) -> None:
    for value in noise_variance(noisy(sigma)).values():
        assert value == pytest.approx(sigma**2, rel=0.1)


@pytest.mark.parametrize(("sigma", "is_noise"), [(0.0, False), (0.8, False), (1.2, True)])
def test_half_of_the_energy_divides_clear_updates_from_noisy_ones(
    sigma: float, is_noise: bool
) -> None:
    assert mostly_noise(noisy(sigma)) == is_noise


def test_withheld_entries_are_no_noise_and_drop_out() -> None:
    update = {"w": torch.tensor([[0.0, 3.0], [0.0, -4.0]]), "b": torch.zeros(2)}
    victim = Victim(update, None, 1, 0, reliability=dict(Kept(0.5).reliability(update, 1)))
    assert noise_variance(victim) == {"w": 0.0, "b": 0.0}
    assert not mostly_noise(victim)
    assert masked(victim).reliability["w"].tolist() == [[0, 1], [0, 1]]
    assert masked(victim).reliability["b"].tolist() == [0, 0]
    half = replace(
        victim, reliability={name: t.clamp_min(0.5) for name, t in victim.reliability.items()}
    )
    assert masked(half).reliability["w"].tolist() == [[0.5, 1], [0.5, 1]]


def test_under_noise_the_distance_is_the_negative_log_likelihood_at_the_best_scale() -> None:
    """Of a tensor without noise the weight is large, but finite."""
    victim = noisy(2.0)
    dummy = {n: 7 * value + draw(*value.shape).float() for n, value in victim.update.items()}
    reliability = {name: factor[None] for name, factor in weighed(victim).reliability.items()}
    target = weighted({name: value[None] for name, value in victim.update.items()}, reliability)
    found = squared_error_at_best_scale(
        weighted({n: v[None] for n, v in dummy.items()}, reliability), target
    )

    def minus_log_likelihood(scale: float) -> float:
        variance = noise_variance(victim)
        errors = (
            (scale * dummy[n] - u).square() / (2 * variance[n]) for n, u in victim.update.items()
        )
        return float(sum(error.double().sum() for error in errors))

    assert found[0] == pytest.approx(minimize_scalar(minus_log_likelihood).fun, rel=1e-3)
    half = noisy(2.0, {"a": torch.full((1, 1), 0.1)})
    ratio = weighed(half).reliability["b"] / weighed(half).reliability["a"]
    assert float(ratio) == pytest.approx(1e3, rel=1e-3)


def test_the_image_prior_is_the_normal_density_of_its_principal_components() -> None:
    """By scikit-learn's own log-likelihood; constants cancel in differences."""
    generator = torch.Generator().manual_seed(1)
    along = torch.randn(500, 20, generator=generator) @ torch.randn(20, 192, generator=generator)
    images = 0.5 + 0.05 * along + 0.03 * torch.randn(500, 192, generator=generator)
    fitted = PCA(64, svd_solver="randomized", random_state=0).fit(images.numpy())
    expected = -torch.from_numpy(fitted.score_samples(images[:6].numpy())).float()
    images = images.view(-1, 3, 8, 8)
    found = image_prior(images)(images[:6, None])
    torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-3, atol=1e-2)
    together = image_prior(images)(images[:6].view(2, 3, 3, 8, 8))
    torch.testing.assert_close(together, found.view(2, 3).sum(1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("defense", "size", "gain"),
    [
        (Kept(0.1), 2, 0.02),
        (Steps(((2,),) * 4), 2, 0.1),
        (Squashed(), 1, 0.01),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "attack",
    [
        FeatureReconstruction(budget=100, learning_rate=0.05),
        pytest.param(InvertingGradients(budget=100), marks=pytest.mark.nightly),
    ],
)
def test_who_knows_the_defense_sees_more(
    attack: GradientMatching, defense: Defense, size: int, gain: float
) -> None:
    static, adaptive = (
        reached(attack, defense, model_of(), size, known) for known in (False, True)
    )
    assert adaptive > static + gain


@pytest.mark.parametrize("sigma", [0.05])
def test_who_knows_how_strong_the_noise_is_sees_more(sigma: float) -> None:
    attack = FeatureReconstruction(budget=100, learning_rate=0.05)
    static, adaptive = (
        reached(attack, GaussianNoise(sigma=sigma), model_of(), 1, known) for known in (False, True)
    )
    assert adaptive > static


def test_an_adaptive_answer_depends_on_its_own_observation_alone() -> None:
    """Also where one update is mostly noise and another is not."""
    attack, model = FeatureReconstruction(budget=8), model_of().float()
    images = [draw(2, *IMAGE, seed=seed).float() for seed in range(3)]
    labels = torch.tensor([0, 1])
    clear, mixed, hidden = (
        Observation(2, seed, sent(GaussianNoise(sigma=sigma), model, images[seed], labels), labels)
        for seed, sigma in enumerate((1e-3, 1e-3, 1.0))
    )
    # The server believes in noise of 1e-2 in all of them, which only the last is made of.
    server = server_of(model, GaussianNoise(sigma=1e-2))
    together = attack.infer(server, [clear, hidden, mixed], lambda share: None)
    for observation, expected in zip([clear, hidden, mixed], together, strict=True):
        (alone,) = attack.infer(server, [observation], lambda share: None)
        torch.testing.assert_close(alone.images, expected.images, rtol=1e-3, atol=1e-4)
