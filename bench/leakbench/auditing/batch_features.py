"""Deep features of images as clients compute them, who may normalise by the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.base.choices import Mode
from leakbench.base.seeds import generator_for
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.shared_model import SharedModel, deep_features


def features_together(model: SharedModel, images: Tensor, mode: Mode) -> Tensor:
    """Return the deep features of one batch, shape (n, d).

    In mode `train` BatchNorm normalises by this batch.
    """
    with torch.no_grad():
        return in_mode(model, mode).features(images)


def features_in_batches(model: SharedModel, images: Tensor, mode: Mode, size: int) -> Tensor:
    """Return deep features, shape (n, d), of images in random batches of a client's size.

    The server does not know with whom a client's individuals are normalised, but how many they are.
    A last batch that is smaller joins the one before.
    """
    if mode == "eval":
        return deep_features(model, images)
    own = in_mode(model, mode)
    if own is model:
        return deep_features(model, images)
    order = torch.randperm(len(images), generator=generator_for("auxiliary batches"))
    order = order.to(images.device)
    batches = order.tensor_split(max(1, len(images) // size))
    with torch.no_grad():
        found = torch.cat([own.features(images[rows]) for rows in batches])
    return found[order.argsort()]
