"""HCN's networks, losses and entropy rule."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.federation.shared_model import Normalise


def classifier(classes: int, size: int, width: int) -> nn.Sequential:
    """Return F, from images (n, 3, size, size) in [0, 1] to logits (n, classes).

    Four 2×2 convolutions of stride 2 with 2, 2, 1, 1 times `width` channels, and a hidden layer.
    """
    layers: list[nn.Module] = [Normalise()]
    for inputs, outputs in pairwise((3, 2 * width, 2 * width, width, width)):
        layers += [
            nn.Conv2d(inputs, outputs, 2, stride=2),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
            nn.Dropout(0.2),
        ]
    hidden = nn.Linear(width * (size // 16) ** 2, 2 * width)
    layers += [nn.Flatten(), hidden, nn.LeakyReLU(), nn.Dropout(0.5)]
    # With channels innermost an epoch takes two thirds of the time on a CPU.
    return nn.Sequential(*layers, nn.Linear(2 * width, classes)).to(
        memory_format=torch.channels_last
    )


def head(classes: int, features: int, width: int) -> nn.Sequential:
    """Return F's part after a frozen backbone, from features (n, features) to logits (n, classes).

    Features are standardised by D_aux's running mean and deviation.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features, affine=False),
        nn.Linear(features, 2 * width),
        nn.LeakyReLU(),
        nn.Dropout(0.5),
        nn.Linear(2 * width, classes),
    )


def reader(classes: int) -> nn.Sequential:
    """Return G, from outputs of F (n, classes) to logits of the property's absence and presence."""
    return nn.Sequential(
        nn.Linear(classes, 20 * classes),
        nn.LeakyReLU(),
        nn.Dropout(0.25),
        nn.Linear(20 * classes, 10 * classes),
        nn.LeakyReLU(),
        nn.Dropout(0.25),
        nn.Linear(10 * classes, 2),
    )


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) in nats, shape (n,) for logits (n, classes).

    >>> entropy(torch.tensor([[0.0, 0.0], [1.0986, 0.0]]))
    tensor([0.6931, 0.5623])
    """
    logarithms = logits.log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1)


def parametrised_loss(
    logits: Tensor,
    labels: Tensor,
    read: Tensor,
    secret: Tensor,
    weight: Tensor,
    betas: tuple[float, float, float],
) -> Tensor:
    """Return β_y·NLL(y) + β_s·CE(G(F(x)), s) + β_x·H(F(x)), a scalar.

    Args:
        logits: of F, shape (n, classes).
        labels: y, shape (n,).
        read: G's logits, shape (n, 2).
        secret: s, 0 or 1, shape (n,).
        weight: of each value of s in its term, shape (2,).
        betas: β_y, β_s, β_x.
    """
    main, hidden, sharp = betas
    return (
        main * functional.cross_entropy(logits, labels)
        + hidden * functional.cross_entropy(read, secret, weight)
        + sharp * entropy(logits).mean()
    )


def regularised_loss(
    logits: Tensor, labels: Tensor, secret: Tensor, betas: tuple[float, float]
) -> Tensor:
    """Return β_y·NLL(y) + β_s·(H_{s=0} − H_{s=1}), a scalar.

    A mean over no individuals counts as 0.

    Args:
        logits: of F, shape (n, classes).
        labels: y, shape (n,).
        secret: s, 0 or 1, shape (n,).
        betas: β_y, β_s.
    """
    main, hidden = betas
    uncertain = entropy(logits)
    of_present = (uncertain * secret).sum() / secret.sum().clamp_min(1)
    of_absent = (uncertain * (1 - secret)).sum() / (1 - secret).sum().clamp_min(1)
    return main * functional.cross_entropy(logits, labels) + hidden * (of_absent - of_present)


def best_threshold(uncertain: Tensor, secret: Tensor) -> tuple[float, float]:
    """Return τ with the best balanced accuracy of the rule “s = 1 where H ≥ τ”, and that accuracy.

    τ lies half-way between two of the entropies. Of equally good ones the least counts.

    Args:
        uncertain: entropies, shape (n,).
        secret: s, 0 or 1, shape (n,).

    >>> best_threshold(torch.tensor([0.1, 0.5, 0.3]), torch.tensor([0, 1, 0]))
    (0.4000000059604645, 1.0)
    """
    ordered, order = uncertain.sort()
    present = secret[order].double()
    absent = 1 - present
    # What lies below the cut is taken for absent: cut i has i individuals below it.
    below = functional.pad(absent.cumsum(0), (1, 0)) / absent.sum().clamp_min(1)
    above = 1 - functional.pad(present.cumsum(0), (1, 0)) / present.sum().clamp_min(1)
    ends = functional.pad(ordered, (1, 0), value=0.0), functional.pad(ordered, (0, 1), value=1e9)
    # A cut between equal entropies cannot be made.
    reached = torch.where(ends[0] < ends[1], (below + above) / 2, 0)[:-1]
    cut = int(reached.argmax())
    return float((ends[0][cut] + ends[1][cut]) / 2), float(reached[cut])


def entropy_score(uncertain: Tensor, threshold: float, classes: int) -> Tensor:
    """Return a score in [0, 1] that grows with the entropy and is ½ at the threshold, shape (n,).

    >>> entropy_score(torch.tensor([0.0, 0.2, 0.4, 2.0]), 0.4, 8)
    tensor([0.0000, 0.2500, 0.5000, 0.9763])
    """
    highest = torch.log(torch.tensor(float(classes))).item()
    low = uncertain / (2 * max(threshold, 1e-12))
    high = 0.5 + (uncertain - threshold) / (2 * max(highest - threshold, 1e-12))
    return torch.where(uncertain < threshold, low, high).clamp(0, 1)
