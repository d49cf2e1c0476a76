"""The property model f_p as logistic regression on deep features, trained on D_aux."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.errors import UsageError

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths C of the ℓ2 penalty, among which one is selected."""


@dataclass(frozen=True)
class LogisticPropertyModel:
    """Logistic regression on standardised deep features, for each of P properties.

    Attributes:
        properties: their names.
        mean, scale: of the auxiliary features, shape (d,).
        weight: shape (P, d).
        bias: shape (P,).
    """

    properties: tuple[str, ...]
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> dict[str, Tensor]:
        """Return each property's probability for features of shape (n, d), shape (n,) each."""
        logits = ((features - self.mean) / self.scale) @ self.weight.T + self.bias
        return dict(zip(self.properties, logits.sigmoid().unbind(-1), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return the argument of `from_tensors`."""
        return {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}

    @classmethod
    def from_tensors(
        cls, properties: tuple[str, ...], tensors: Mapping[str, Tensor], device: torch.device
    ) -> LogisticPropertyModel:
        """Return the property model that `tensors` describe, on `device`."""
        return cls(properties, **{name: value.to(device) for name, value in tensors.items()})


def check_both_classes(properties: Mapping[str, Tensor]) -> None:
    """Refuse a D_aux in which a property has only one class.

    Raises:
        UsageError: a property is present in all individuals, or in none.
    """
    for name, present in properties.items():
        if bool(present.all()) or not bool(present.any()):
            raise UsageError(
                f"in D_aux the property {name!r} is {'always' if present.any() else 'never'} "
                f"present, so it cannot be learnt; raise `auxiliary_share`"
            )


def fit_logistic(
    features: Tensor, properties: Mapping[str, Tensor], identities: NDArray[np.int64], seed: int
) -> LogisticPropertyModel:
    """Train f_p on the features of D_aux, shape (n, d), and its properties, shape (n,) each.

    Classes are weighted to balance, so that a score of ½ is the threshold of balanced accuracy. The
    penalty with the best balanced accuracy on a held-out quarter of D_aux's identities is selected.
    """
    mean, scale = features.mean(0), features.std(0, unbiased=False).clamp_min(1e-6)
    standardised = ((features - mean) / scale).cpu().numpy()
    held_out = held_out_quarter(identities, seed)
    fits = [_fit(standardised, p.cpu().numpy(), held_out) for p in properties.values()]
    return LogisticPropertyModel(
        properties=tuple(properties),
        mean=mean,
        scale=scale,
        weight=torch.from_numpy(np.stack([weight for weight, _ in fits])).to(features),
        bias=torch.tensor([bias for _, bias in fits]).to(features),
    )


def held_out_quarter(identities: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return a mask of all images of a quarter of the identities, shape (n,)."""
    people, person = np.unique(identities, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(people)) < max(1, len(people) // 4)
    return chosen[person]


def _fit(
    features: NDArray[np.float32], present: NDArray[np.bool_], held_out: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    def regression(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=200)

    with warnings.catch_warnings():
        # 200 steps of a penalised, standardised problem are enough: more change no decisions.
        warnings.simplefilter("ignore", ConvergenceWarning)
        strength = REGULARISATION[1]
        if len(np.unique(present[held_out])) == len(np.unique(present[~held_out])) == 2:
            strength = max(
                REGULARISATION,
                key=lambda c: balanced_accuracy_score(
                    present[held_out],
                    regression(c)
                    .fit(features[~held_out], present[~held_out])
                    .predict(features[held_out]),
                ),
            )
        fitted = regression(strength).fit(features, present)
    return fitted.coef_[0].astype(np.float32), float(fitted.intercept_[0])
