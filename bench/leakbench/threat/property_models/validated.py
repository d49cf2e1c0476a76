"""The property model f_p selected, for each property, by cross-validation inside D_aux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from leakbench.base.errors import UsageError


class Candidate(NamedTuple):
    """A network and its regularisation: number of `hidden` units (0: linear) and weight decay."""

    hidden: int
    weight_decay: float


CANDIDATES = (
    Candidate(0, 0.1),
    Candidate(0, 10.0),
    Candidate(128, 1.0),
    Candidate(128, 3.0),
)
FOLDS = 3
EPOCHS = 10
BATCH = 128
LEARNING_RATE = 3e-3
DROPOUT = 0.5


@dataclass(frozen=True)
class ValidatedPropertyModel:
    """The mean of the networks of all folds, with the candidate selected for each property.

    Features are clamped to their range in D_aux, beyond which nothing was learnt, and standardised.

    Attributes:
        properties: the names of P properties.
        mean, scale, low, high: of the auxiliary features, shape (d,).
        networks: candidate → one network for each fold, (n, d) to logits (n, P).
        chosen: selected candidate of each property, shape (P,).
        slope, intercept: of the logits' calibration, shape (P,).
    """

    properties: tuple[str, ...]
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    networks: Mapping[int, Sequence[nn.Module]]
    chosen: Tensor
    slope: Tensor
    intercept: Tensor

    def __call__(self, features: Tensor) -> dict[str, Tensor]:
        """Return each property's probability for features of shape (n, d), shape (n,) each."""
        inputs = (features.clamp(self.low, self.high) - self.mean) / self.scale
        logits = features.new_zeros(len(features), len(self.properties))
        for candidate, networks in self.networks.items():
            mean = torch.stack([network(inputs) for network in networks]).mean(0)
            logits = torch.where(self.chosen == candidate, mean, logits)
        scores = (self.slope * logits + self.intercept).sigmoid()
        return dict(zip(self.properties, scores.unbind(-1), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return the argument of `from_tensors`."""
        held = {name: getattr(self, name) for name in TENSOR_FIELDS}
        for candidate, networks in self.networks.items():
            for fold, network in enumerate(networks):
                for name, value in network.state_dict().items():
                    held[f"{candidate}/{fold}/{name}"] = value
        return held

    @classmethod
    def from_tensors(
        cls, properties: tuple[str, ...], tensors: Mapping[str, Tensor], device: torch.device
    ) -> ValidatedPropertyModel:
        """Return the property model that `tensors` describe, on `device`."""
        held = {name: tensors[name].to(device) for name in TENSOR_FIELDS}
        networks: dict[int, list[nn.Module]] = {}
        for candidate in sorted(set(tensors["chosen"].tolist())):
            networks[candidate] = []
            for fold in range(FOLDS):
                network = _network(len(held["mean"]), len(properties), CANDIDATES[candidate])
                prefix = f"{candidate}/{fold}/"
                network.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
                networks[candidate].append(network.to(device).eval().requires_grad_(False))
        return cls(properties=properties, networks=networks, **held)


TENSOR_FIELDS = ("mean", "scale", "low", "high", "chosen", "slope", "intercept")
"""Names of the fields that are tensors."""


def fit_validated(
    features: Tensor,
    mirrored: Tensor,
    properties: Mapping[str, Tensor],
    identities: NDArray[np.int64],
    seed: int,
) -> ValidatedPropertyModel:
    """Train f_p on D_aux, on the CPU, so that numbers do not depend on the server's device.

    Every candidate is trained on the complement of each fold of identities, and calibrated by its
    logits on the fold (Platt scaling). For each property the candidate with the lowest calibrated
    cross-entropy on the folds is selected. Classes have equal weight throughout, so that ½ is the
    threshold of balanced accuracy, whatever the prevalence among the victims.

    Args:
        features: of D_aux's images, shape (n, d).
        mirrored: of the same images mirrored, used for training too; shape (n, d).
        properties: property → presence, shape (n,) each; both classes must occur.
        identities: number of the person or object shown, shape (n,).

    Raises:
        UsageError: D_aux has fewer identities than there are folds.
    """
    fold = _folds(identities, seed)
    present = torch.stack(list(properties.values()), 1).cpu()
    both = torch.cat([features, mirrored]).cpu()
    mean, scale = both.mean(0), both.std(0, unbiased=False).clamp_min(1e-6)
    low, high = both.amin(0), both.amax(0)
    # In place: of wide features, as of maps, each copy takes gigabytes.
    inputs = both.sub_(mean).div_(scale)
    networks, calibrations, losses = [], [], []
    for candidate in CANDIDATES:
        of_folds, logits = _cross_validated(candidate, inputs, present, fold, seed)
        slope, intercept = _calibration(logits, present)
        networks.append(of_folds)
        calibrations.append(torch.stack([slope, intercept]))
        losses.append(_balanced_loss(slope * logits + intercept, present))
    chosen = torch.stack(losses).argmin(0)
    slope, intercept = torch.stack(calibrations)[chosen, :, torch.arange(len(chosen))].T
    return ValidatedPropertyModel(
        properties=tuple(properties),
        mean=mean,
        scale=scale,
        low=low,
        high=high,
        networks={number: networks[number] for number in set(chosen.tolist())},
        chosen=chosen,
        slope=slope,
        intercept=intercept,
    )


def _folds(identities: NDArray[np.int64], seed: int) -> Tensor:
    """Return the fold of every row, shape (n,): all images of an identity are in one fold."""
    people, person = np.unique(identities, return_inverse=True)
    if len(people) < FOLDS:
        raise UsageError(
            f"D_aux has {len(people)} identities, fewer than the {FOLDS} folds to select f_p; "
            f"raise `auxiliary_share` or use property_model=logistic"
        )
    order = np.random.default_rng(seed).permutation(len(people))
    return torch.from_numpy(order[person] % FOLDS)


def _cross_validated(
    candidate: Candidate, inputs: Tensor, present: Tensor, fold: Tensor, seed: int
) -> tuple[list[nn.Module], Tensor]:
    """Return each fold's network, and every individual's logits by the one not trained on it.

    Args:
        inputs: originals, then mirrored, shape (2n, d).
        present: shape (n, P).
        fold: shape (n,).
    """
    logits = torch.zeros(present.shape)
    networks = []
    for number in range(FOLDS):
        network = _trained(candidate, inputs, present, fold != number, seed + number)
        held_out = fold == number
        logits[held_out] = network(inputs[: len(fold)][held_out])
        networks.append(network)
    return networks, logits


def _trained(
    candidate: Candidate, inputs: Tensor, present: Tensor, chosen: Tensor, seed: int
) -> nn.Module:
    """Return a network trained on the chosen individuals and their mirror images."""
    rows = chosen.repeat(2).nonzero().flatten()
    share = present[chosen].float().mean(0).clamp(1e-3, 1 - 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(inputs.shape[1], present.shape[1], candidate)
        optimiser = torch.optim.AdamW(
            network.parameters(), LEARNING_RATE, weight_decay=candidate.weight_decay
        )
        steps = EPOCHS * -(-len(rows) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(EPOCHS):
            for batch in torch.split(rows[torch.randperm(len(rows))], BATCH):
                truth = present[batch % len(present)].float()
                weight = truth / (2 * share) + (1 - truth) / (2 * (1 - share))
                loss = functional.binary_cross_entropy_with_logits(
                    network(inputs[batch]), truth, weight
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def _network(width: int, properties: int, candidate: Candidate) -> nn.Module:
    if not candidate.hidden:
        return nn.Linear(width, properties)
    return nn.Sequential(
        nn.Linear(width, candidate.hidden),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(candidate.hidden, properties),
    )


def _balanced_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Return the mean of both classes' mean cross-entropies, shape (P,)."""
    loss = functional.binary_cross_entropy_with_logits(logits, present.float(), reduction="none")
    return sum(  # type: ignore[return-value]
        (loss * of_class).sum(0) / of_class.sum(0) / 2 for of_class in (present, ~present)
    )


def _calibration(logits: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and intercept of each property's logits, shape (P,) each (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression

    fits = [
        LogisticRegression(class_weight="balanced").fit(column[:, None].numpy(), truth.numpy())
        for column, truth in zip(logits.T, present.T, strict=True)
    ]
    slopes = [float(fit.coef_[0, 0]) for fit in fits]
    return torch.tensor(slopes), torch.tensor([float(fit.intercept_[0]) for fit in fits])
