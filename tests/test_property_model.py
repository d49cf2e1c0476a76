"""Facts about f_p."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.threat.property_models.logistic import check_both_classes, fit_logistic
from leakbench.threat.property_models.validated import (
    CANDIDATES,
    FOLDS,
    ValidatedPropertyModel,
    _folds,
    fit_validated,
)

WIDTH = 6


def drawn(count: int, seed: int, share: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of which `shift` moves one axis by 3 σ, and `xor` two by the sign of their product.

    One feature is 0 for everybody, as those of a dead unit are.
    """
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, WIDTH, generator=random)
    shift = torch.rand(count, generator=random) < share
    features[:, 0] += 3.0 * shift
    features[:, 3] = 0
    return features, {"shift": shift, "xor": features[:, 1] * features[:, 2] > 0}


def fitted(count: int = 1500, share: float = 0.5, seed: int = 0) -> ValidatedPropertyModel:
    features, properties = drawn(count, 1, share)
    mirrored = features + 0.1 * (features != 0)
    return fit_validated(features, mirrored, properties, np.arange(count) // 2, seed)


@pytest.fixture(scope="module")
def model() -> ValidatedPropertyModel:
    return fitted()


def rates(model: ValidatedPropertyModel, name: str, share: float = 0.5) -> tuple[float, float]:
    """Sensitivity and specificity at ½ on people who are not in D_aux."""
    features, properties = drawn(40_000, 2, share)
    said, truth = model(features)[name] > 0.5, properties[name]
    return said[truth].float().mean().item(), (~said)[~truth].float().mean().item()


def test_each_property_gets_the_kind_that_it_needs(model: ValidatedPropertyModel) -> None:
    assert CANDIDATES[int(model.chosen[1])].hidden > 0
    assert min(rates(model, "xor")) > 0.8
    # Φ(1.5) = 0.933 is the most that anybody can get.
    assert min(rates(model, "shift")) > 0.9


def test_a_logistic_regression_cannot_learn_what_is_not_linear() -> None:
    features, properties = drawn(1500, 1)
    logistic = fit_logistic(features, properties, np.arange(1500), 0)
    others, truth = drawn(4000, 2)
    right = (logistic(others)["xor"] > 0.5) == truth["xor"]
    assert abs(right.float().mean().item() - 0.5) < 0.05


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("among_victims", [0.05, 0.95])
def test_one_half_is_the_threshold_of_balanced_accuracy_whatever_the_prevalence(
    share: float, among_victims: float
) -> None:
    found = rates(fitted(share=share), "shift", among_victims)
    # The best threshold has both rates at Φ(1.5) = 0.933, and their mean there is its maximum.
    assert sum(found) / 2 > 0.915
    assert abs(found[0] - found[1]) < 0.08


def test_scores_are_probabilities_where_classes_are_balanced(model: ValidatedPropertyModel) -> None:
    features, properties = drawn(8000, 5)
    scores, truth = model(features)["shift"], properties["shift"].float()
    for low, high in pairwise((0.0, 0.2, 0.4, 0.6, 0.8, 1.0)):
        within = (scores >= low) & (scores <= high)
        assert abs(scores[within].mean() - truth[within].mean()) < 0.12


def test_the_same_d_aux_gives_the_same_scores_and_another_seed_others(
    model: ValidatedPropertyModel,
) -> None:
    features, _ = drawn(100, 3)
    one, same, other = (m(features)["xor"] for m in (model, fitted(), fitted(seed=1)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_survives_the_cache(model: ValidatedPropertyModel) -> None:
    features, _ = drawn(100, 3)
    read = ValidatedPropertyModel.from_tensors(
        model.properties, model.tensors(), torch.device("cpu")
    )
    for name, scores in model(features).items():
        assert torch.equal(read(features)[name], scores)


def test_features_beyond_what_d_aux_shows_count_as_its_extremes(
    model: ValidatedPropertyModel,
) -> None:
    features, _ = drawn(100, 3)
    far = features * 1e6
    for name, scores in model(far).items():
        assert bool(torch.isfinite(scores).all())
        assert torch.equal(scores, model(far * 1e3)[name])
    moved = features.clone()
    moved[:, 3] = 50.0
    for name, scores in model(moved).items():
        assert torch.equal(scores, model(features)[name])


def test_training_goes_on_outside_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fitted(count=60)
    assert torch.equal(before, torch.random.get_rng_state())


def test_all_images_of_a_person_are_in_one_fold() -> None:
    identities = np.random.default_rng(0).integers(0, 40, 300)
    fold = _folds(identities, 0).numpy()
    assert set(fold.tolist()) == set(range(FOLDS))
    assert all(len(set(fold[identities == who].tolist())) == 1 for who in set(identities.tolist()))


def test_fewer_people_than_folds_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"2 identities, fewer than the 3 .*=logistic"):
        _folds(np.array([4, 4, 9, 9]), 0)


@pytest.mark.parametrize(("value", "named"), [(True, "always"), (False, "never")])
def test_a_property_of_one_class_is_an_error(value: bool, named: str) -> None:
    with pytest.raises(UsageError, match=rf"'hat' is {named} present.*auxiliary_share"):
        check_both_classes({"hat": torch.full((5,), value)})


def test_a_rare_property_that_some_folds_lack_is_learnt_all_the_same() -> None:
    features, properties = drawn(300, 1)
    rare = torch.zeros(300, dtype=torch.bool)
    rare[:2] = True
    found = fit_validated(
        features, features, properties | {"rare": rare}, np.arange(300) // 2, seed=0
    )
    assert bool(torch.isfinite(found(features)["rare"]).all())
