"""Recovery of a batch's main-task labels from the output layer's gradient.

With cross-entropy, individual i adds (p_i − y_i) h_iᵀ / B to the gradient of the output layer's
weight and (p_i − y_i) / B to that of its bias, where h_i are its penultimate features, p_i its
predicted probabilities and y_i its label, one-hot. So the bias gradient is
mean(p) − counts / B. Five schemes read it, each exact within limits of its own:

| scheme | reads | finds |
|---|---|---|
| `idlg` | bias gradient | the label of a single individual |
| `analytic` | bias gradient | distinct labels, or refuses |
| `row_minimum` | weight gradient | distinct labels, B ≤ K |
| `counts` | bias gradient, a guess of mean(p) | repeats too |
| `ilrg` | both, and the layer itself | repeats too |

The sixth, optimising labels jointly with the images (DLG), is part of the gradient matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from scipy.optimize import nnls
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.federation.loss import Loss
from leakbench.federation.shared_model import SharedModel

Scheme = Literal["idlg", "analytic", "row_minimum", "counts", "ilrg"]

SMALL = 0.05
"""Below this share of the largest bias gradient, a quotient by one is mostly cancellation."""


def recover_labels(
    scheme: Scheme,
    model: SharedModel,
    update: Mapping[str, Tensor],
    batch_size: int,
    expected: Tensor | None = None,
) -> Tensor:
    """Return the labels that a scheme reads off an update.

    Args:
        model: whose output layer, linear with bias, the update belongs to.
        update: parameter name → gradient of the model's loss.
        batch_size: B.
        expected: for `counts`, a guess of the mean predicted probabilities, shape (K,); 1 / K
            each if None.

    Returns:
        Classes in ascending order, shape (B,), int64, on the update's device.

    Raises:
        UsageError: the batch is outside the scheme's limits, or the gradient is not finite.
    """
    bias_name = model.output_bias
    weight_name = bias_name.removesuffix("bias") + "weight"
    weight_gradient, bias_gradient = update[weight_name].detach(), update[bias_name].detach()
    if not (weight_gradient.isfinite().all() and bias_gradient.isfinite().all()):
        raise UsageError(
            f"label scheme {scheme!r} cannot read an output layer's gradient that is not finite; "
            f"grant the labels or attack an earlier round"
        )
    if not model.loss.is_plain:
        if scheme != "counts":
            raise UsageError(
                f"label scheme {scheme!r} is for the mean cross-entropy, and clients compute "
                f"{model.loss.in_words}; use 'counts'"
            )
        if expected is None:
            expected = model.loss.probabilities(torch.zeros_like(bias_gradient))
        return label_counts_for_loss(model.loss, bias_gradient, expected, batch_size)
    if scheme == "idlg":
        if batch_size != 1:
            raise UsageError(
                f"label scheme 'idlg' reads the label of one individual, not of a batch of "
                f"{batch_size}; use 'counts' or 'ilrg'"
            )
        return idlg_label(bias_gradient)
    if scheme == "analytic":
        return analytic_labels(bias_gradient, batch_size)
    if scheme == "row_minimum":
        return row_minimum_labels(weight_gradient, batch_size)
    if scheme == "counts":
        if expected is None:
            expected = torch.full_like(bias_gradient, 1 / len(bias_gradient))
        return label_counts_from_bias(bias_gradient, expected, batch_size)
    weight, bias = model.get_parameter(weight_name), model.get_parameter(bias_name)
    return ilrg_labels(weight_gradient, bias_gradient, weight, bias, batch_size)


def idlg_label(bias_gradient: Tensor) -> Tensor:
    """Return the label of a batch of one: iDLG, Zhao, Mopuri, Bilen 2020.

    The gradient is p − y there, negative in the true class alone. Exact on any model; of a larger
    batch it would return one of the labels.

    Args:
        bias_gradient: shape (K,).

    Returns:
        The class, shape (1,).

    >>> idlg_label(torch.tensor([0.2, -0.7, 0.5]))
    tensor([1])
    """
    return bias_gradient.argmin().reshape(1)


def analytic_labels(bias_gradient: Tensor, batch_size: int) -> Tensor:
    """Return the classes whose bias gradient is negative, for a batch without repeats.

    A class is negative if it has more of the batch than mean(p) predicts. An absent class never
    is, so of a gradient without noise the answer is exact whenever there is one. There is one if
    labels are distinct and the model gives each present class less than 1 / B on average; B < K is
    necessary.

    Args:
        bias_gradient: shape (K,).
        batch_size: B.

    Returns:
        Classes in ascending order, shape (B,).

    Raises:
        UsageError: the number of negative classes is not B.

    >>> analytic_labels(torch.tensor([0.2, -0.3, 0.3, -0.2]), 2)
    tensor([1, 3])
    """
    labels = (bias_gradient < 0).nonzero().flatten()
    if len(labels) != batch_size:
        raise UsageError(
            f"label scheme 'analytic' needs as many classes with a negative bias gradient as the "
            f"batch has individuals, {batch_size}, and finds {len(labels)}; use 'counts' or 'ilrg'"
        )
    return labels


def row_minimum_labels(weight_gradient: Tensor, batch_size: int) -> Tensor:
    """Return the B classes whose weight gradient reaches lowest: GradInversion, Yin et al. 2021.

    Supposes features ≥ 0, so that only a present class has negative entries. Exact if labels are
    distinct and every present class has such an entry, as on an untrained model; a class that the
    model is already sure of can be missed. Of repeated labels it finds one each, and fills up with
    absent classes.

    Args:
        weight_gradient: shape (K, d).
        batch_size: B.

    Returns:
        Distinct classes in ascending order, shape (B,).

    Raises:
        UsageError: B > K.

    >>> row_minimum_labels(torch.tensor([[0.1, 0.2], [-0.3, 0.1], [0.3, -0.1]]), 2)
    tensor([1, 2])
    """
    classes = len(weight_gradient)
    if batch_size > classes:
        raise UsageError(
            f"label scheme 'row_minimum' finds distinct labels only, and a batch of {batch_size} "
            f"has repeats among {classes} classes; use 'counts' or 'ilrg'"
        )
    return weight_gradient.amin(1).argsort()[:batch_size].sort().values


def label_counts_from_bias(bias_gradient: Tensor, expected: Tensor, batch_size: int) -> Tensor:
    """Return labels whose counts explain the bias gradient, mean(p) − counts / B.

    mean(p) is not known; `expected` approximates it. Labels are taken greedily, each time the
    class of which most is left of B · (expected − gradient), so repeats are found. Exact at B = 1,
    and wherever `expected` is off by less than 1 / 2B in every class; a trained model whose
    predictions differ from `expected` makes it err.

    Args:
        bias_gradient: shape (K,).
        expected: a guess of the mean predicted probabilities, shape (K,).
        batch_size: B.

    Returns:
        Classes in ascending order, shape (B,).

    >>> y = torch.tensor([0, 0, 1, 3, 3, 3, 7, 7])
    >>> p = torch.full((8,), 1 / 8)
    >>> label_counts_from_bias(p - torch.bincount(y, minlength=8) / 8, p, 8)
    tensor([0, 0, 1, 3, 3, 3, 7, 7])
    """
    if batch_size == 1:
        return idlg_label(bias_gradient)
    left = batch_size * (expected - bias_gradient)
    labels = []
    for _ in range(batch_size):
        likeliest = left.argmax()
        labels.append(likeliest)
        left[likeliest] -= 1
    return torch.stack(labels).sort().values


def label_counts_for_loss(
    loss: Loss, bias_gradient: Tensor, expected: Tensor, batch_size: int
) -> Tensor:
    """Return labels whose counts n explain the bias gradient g of any loss, as `counts` does.

    With all predictions as expected, n solves Σ_c n_c x_c = N g and Σ_c n_c = B, where x_c is the
    error of an individual of class c, and N is 1 for a sum, or Σ_c n_c w_c; by non-negative least
    squares, rounded to integers by largest remainders. With more labels than logits, such as sets
    of labels, many counts explain it, and one of them is returned.

    Args:
        bias_gradient: shape (K,), or (1,) of a single logit.
        expected: a guess of the mean predictions, as `Loss.probabilities` returns them.
        batch_size: B.

    Returns:
        Classes in ascending order, shape (B,).

    >>> loss = Loss(link="sigmoid", table=((0,), (1,)))
    >>> label_counts_for_loss(loss, torch.tensor([-0.5]), torch.ones(2) / 2, 4)
    tensor([1, 1, 1, 1])
    """
    g, p = (tensor.detach().to("cpu", torch.float64) for tensor in (bias_gradient, expected))
    errors = loss.errors(loss.logits_of(p), loss.targets(len(p)))
    classes = len(errors)
    equations, right = errors.T, g
    if loss.reduction == "mean":
        each = [loss.denominator(torch.tensor([label])) for label in range(classes)]
        equations, right = errors.T - g[:, None] * torch.tensor(each), torch.zeros_like(g)
    sized = torch.cat([equations, torch.ones(1, classes)])
    shares, _ = nnls(sized.numpy(), torch.cat([right, torch.tensor([float(batch_size)])]).numpy())
    counts = _integers(torch.from_numpy(shares), batch_size)
    return torch.arange(classes).repeat_interleave(counts).to(bias_gradient.device)


def ilrg_labels(
    weight_gradient: Tensor, bias_gradient: Tensor, weight: Tensor, bias: Tensor, batch_size: int
) -> Tensor:
    """Return labels by instance-wise label restoration: iLRG, Ma et al. 2023 (ICLR).

    With e_c from `class_mean_features` and p_c = softmax(W e_c + b), the counts n solve
    ∇b_j = Σ_c n_c / B · (p_cj − [j = c]) and Σ_c n_c = B; here by non-negative least squares,
    rounded to integers by largest remainders. Exact at B = 1, and wherever all individuals have
    the same predictions; nearly so on an untrained model. The more a trained model's predictions
    differ, the more it errs, most of all with few classes: at K = 2, e_0 = e_1 carries no
    information.

    Args:
        weight_gradient: shape (K, d).
        bias_gradient: shape (K,).
        weight: W, shape (K, d).
        bias: b, shape (K,).
        batch_size: B.

    Returns:
        Classes in ascending order, shape (B,).
    """
    # On the processor in double precision: the equations are few, and may be nearly singular.
    grad_w, grad_b, w, b = (
        tensor.detach().to("cpu", torch.float64)
        for tensor in (weight_gradient, bias_gradient, weight, bias)
    )
    predicted = (class_mean_features(grad_w, grad_b) @ w.T + b).softmax(1)
    classes = len(b)
    equations = torch.cat([predicted.T - torch.eye(classes), torch.ones(1, classes)])
    shares, _ = nnls(equations.numpy(), torch.cat([grad_b, torch.ones(1)]).numpy())
    counts = _integers(torch.from_numpy(shares), batch_size)
    return torch.arange(classes).repeat_interleave(counts).to(bias_gradient.device)


def class_mean_features(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Return e_c = ∇W_c / ∇b_c, about the mean penultimate features of class c's individuals.

    It is the mean of all h_i weighted by p_ic − y_ic: exact at B = 1, close with many classes, and
    at K = 2 the same vector for both. Where ∇b_c nearly vanishes the weights cancel; there it is
    Σ_c sign(∇b_c) ∇W_c / Σ_c |∇b_c| instead, about the batch's mean.

    Args:
        weight_gradient: shape (K, d).
        bias_gradient: shape (K,).

    Returns:
        Shape (K, d); zeros where all gradients are zero.

    >>> class_mean_features(torch.tensor([[-2.0, -6.0], [2.0, 6.0]]), torch.tensor([-0.5, 0.5]))
    tensor([[ 4., 12.],
            [ 4., 12.]])
    """
    size = bias_gradient.abs()
    tiny = torch.finfo(size.dtype).tiny
    batch_mean = bias_gradient.sign() @ weight_gradient / size.sum().clamp_min(tiny)
    small = size <= SMALL * size.max()
    quotient = weight_gradient / bias_gradient.where(~small, 1)[:, None]
    return quotient.where(~small[:, None], batch_mean)


def _integers(shares: Tensor, total: int) -> Tensor:
    """Round shares, scaled to a total, to integers of that total by largest remainders.

    >>> _integers(torch.tensor([0.5, 0.26, 0.24]), 10)
    tensor([5, 3, 2])
    """
    scaled = shares * (total / shares.sum())
    counts = scaled.floor().long()
    missing = total - int(counts.sum())
    counts[(scaled - counts).argsort(descending=True)[:missing]] += 1
    return counts
