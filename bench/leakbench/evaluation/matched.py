"""An attack's answers in the order of the individuals to whom they are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.metrics.matching import match_individuals
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth


@dataclass(frozen=True)
class Matched:
    """The answers for all batches of one run, n individuals in the order of the ground truth.

    An attack without features either gives all individuals of a batch the same answer, so that
    their order does not matter, or answers in the order of the batch.

    Attributes:
        orders: of each batch, the row of each individual's answer.
        scores: property → shape (n,).
        features: reconstructed, standardised, shape (n, d); None without features.
        true: true features, standardised, shape (n, d).
        cosines: between the two, shape (n,); None without features.
        certified: whether the attack certifies the feature, shape (n,); None where it makes no such
            claims.
        claimed: whether the attack takes the feature for exact, certified or not, shape (n,); None
            where it does not tell.
    """

    orders: Sequence[Tensor]
    scores: Mapping[str, NDArray[np.float64]]
    features: Tensor | None
    true: Tensor
    cosines: NDArray[np.float64] | None
    certified: NDArray[np.bool_] | None
    claimed: NDArray[np.bool_] | None

    @classmethod
    def of(
        cls,
        truths: Sequence[GroundTruth],
        results: Sequence[AttackResult],
        standardise: Standardisation,
    ) -> Self:
        """Return the answers of one run, matched by feature within each batch."""
        orders, features, cosines, certified, claimed = [], [], [], [], []
        true = standardise(torch.cat([truth.features for truth in truths]))
        own = torch.tensor_split(true, np.cumsum([len(truth) for truth in truths])[:-1].tolist())
        for truth, result, features_of in zip(truths, results, own, strict=True):
            order = torch.arange(len(truth))
            if result.features is not None:
                found = standardise(result.features)
                order, cosine = match_individuals(found, features_of)
                features.append(found[order])
                cosines.append(cosine)
            if result.certified is not None:
                certified.append(result.certified.cpu()[order])
            if result.claimed is not None:
                claimed.append(result.claimed.cpu()[order])
            orders.append(order)
        everywhere = len(features) == len(truths)
        return cls(
            orders=orders,
            scores={
                name: in_order(
                    [r.scores[name].cpu()[o] for r, o in zip(results, orders, strict=True)]
                )
                for name in results[0].scores
            },
            features=torch.cat(features) if everywhere else None,
            true=true,
            cosines=in_order(cosines) if everywhere else None,
            certified=torch.cat(certified).numpy() if len(certified) == len(truths) else None,
            claimed=torch.cat(claimed).numpy() if len(claimed) == len(truths) else None,
        )


def in_order(of_batches: Sequence[Tensor | None]) -> NDArray[np.float64]:
    """Return the values of all batches as one array, shape (n,)."""
    known = [each.detach().cpu() for each in of_batches if each is not None]
    joined: NDArray[np.float64] = torch.cat(known).double().numpy()
    return joined
