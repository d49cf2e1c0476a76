"""Labels that are vectors (soft labels, sets of labels, numbers), as rows of a list of targets.

Attacks search over the label of each individual, and so need a list of the labels there may be. For
sets of few labels that is every set, otherwise those that individuals of D_aux have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.auditing.client_loss import Criterion, Rows, loss_of
from leakbench.auditing.labelled_images import LabelledImages, name_of
from leakbench.base.errors import UsageError
from leakbench.federation.loss import Loss

MOST_TARGETS = 512
"""Labels that attacks search over, at most: each is tried for each individual."""

ALL_SETS = 8
"""Labels of which every set is tried, at most."""


ROUNDING = 1e-4
"""How far the logarithm of the sum of probabilities may be from 0."""


@dataclass(frozen=True)
class Targets:
    """How labels enter the clients' loss.

    Attributes:
        criterion: the user's own loss.
        loss: what it computes.
        note: what attacks take labels to be, a sentence; empty for classes.
    """

    criterion: Criterion
    loss: Loss
    note: str = ""

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the user's own loss of logits, shape (n, K), and labels, shape (n,)."""
        loss = self.loss
        targets = logits.new_tensor(loss.table)[labels] if loss.table else labels
        if self.criterion is None:
            return functional.cross_entropy(logits, targets)
        own = self.criterion
        found: Tensor = (
            own.to(logits)(logits, targets) if isinstance(own, nn.Module) else own(logits, targets)
        )
        return found


def with_targets(
    criterion: Criterion, outputs: Tensor, auxiliary: LabelledImages, truth: LabelledImages | None
) -> tuple[Targets, LabelledImages, LabelledImages | None]:
    """Return how labels enter the loss, and D_aux and the truth with numbers for labels.

    Args:
        criterion: the clients' loss.
        outputs: of the model for some individuals, shape (n, K).

    Raises:
        UsageError: attacks cannot state the loss, labels do not fit it, there are too many
            different ones, or the truth has one that D_aux has not.
    """
    logits = outputs.shape[1]
    normalised = logits > 1 and bool((outputs.logsumexp(1).abs() < ROUNDING).all())
    loss = loss_of(criterion, logits, normalised)
    held = [("D_aux", auxiliary), *([] if truth is None else [("the truth", truth)])]
    vectors = [
        (role, each) for role, each in held if each.labels is not None and _is_vector(each, loss)
    ]
    if not vectors:
        return Targets(criterion, loss), auxiliary, truth
    if len(vectors) < len([each for _, each in held if each.labels is not None]):
        raise UsageError(
            f"labels of {vectors[0][0]} are vectors, and others are not; give both alike"
        )
    rows = {role: _rows(each, role, loss, logits) for role, each in vectors}
    first = rows[vectors[0][0]]
    if loss.is_plain and all(_is_one_hot(each) for each in rows.values()):
        numbers = {role: each.argmax(1) for role, each in rows.items()}
        return (Targets(criterion, loss), *_numbered(auxiliary, truth, numbers))
    every = logits <= ALL_SETS and _are_sets(rows) and loss.link == "sigmoid"
    if every:
        table: Rows = tuple(product((0.0, 1.0), repeat=logits))
    elif "D_aux" in rows:
        table = tuple(sorted(set(map(tuple, first.tolist()))))
    else:
        raise UsageError(
            "the truth has labels that are vectors, and D_aux has none; give them, since attacks "
            "search over the labels of D_aux"
        )
    if len(table) > MOST_TARGETS:
        raise UsageError(
            f"D_aux has {len(table)} different labels, and attacks try each label for each "
            f"individual, at most {MOST_TARGETS}; for any number or vector they would have to "
            f"solve for each individual's label besides its features; round or group the labels"
        )
    numbers = {role: _numbers(each, table, dict(vectors)[role]) for role, each in rows.items()}
    listed = "all sets of labels" if every else f"the {len(table)} different labels of D_aux"
    note = (
        f"Attacks and baselines take each individual's label to be one of {listed}; audit.json "
        f"numbers these in ascending order, as `model.labels` lists them."
    )
    return (
        Targets(criterion, replace(loss, table=table), note),
        *_numbered(auxiliary, truth, numbers),
    )


def _is_vector(labelled: LabelledImages, loss: Loss) -> bool:
    """Whether labels are to be listed: they have a column for each logit, or are numbers."""
    assert labelled.labels is not None
    several = labelled.labels.ndim == 2 and not loss.one_logit
    return several or (loss.link == "identity" and len(loss.table) == 1)


def _rows(labelled: LabelledImages, role: str, loss: Loss, logits: int) -> Tensor:
    """Return the targets of each individual, shape (n, K), in single precision.

    Raises:
        UsageError: their number is another, or the loss does not take them.
    """
    assert labelled.labels is not None
    rows = labelled.labels.float()
    rows = rows[:, None] if rows.ndim == 1 else rows
    if tuple(rows.shape) != (len(labelled), logits):
        raise UsageError(
            f"labels of {role} have shape {tuple(rows.shape)}; for {len(labelled)} individuals and "
            f"{logits} logits give ({len(labelled)}, {logits}), or the number of a class each"
        )
    right = rows.isfinite()
    if loss.link != "identity":
        right &= (rows >= 0) & ((rows <= 1) | (loss.link == "softmax"))
    wrong = (~right.all(1)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"the label of {name_of(labelled, row)} in {role}, {_shown(rows[row])}, is no target "
            f"of {loss.in_words}; give finite numbers, and probabilities for a cross-entropy"
        )
    return rows


def _is_one_hot(rows: Tensor) -> bool:
    return _are_sets({"": rows}) and bool((rows.sum(1) == 1).all())


def _are_sets(rows: dict[str, Tensor]) -> bool:
    return all(bool(((each == 0) | (each == 1)).all()) for each in rows.values())


def _numbers(rows: Tensor, table: Rows, labelled: LabelledImages) -> Tensor:
    """Return the row of the table that each individual's targets are.

    Raises:
        UsageError: there is none.
    """
    place = {row: number for number, row in enumerate(table)}
    found = [place.get(tuple(row)) for row in rows.tolist()]
    if None in found:
        row = found.index(None)
        raise UsageError(
            f"the label of {name_of(labelled, row)} in the truth, {_shown(rows[row])}, is nobody's "
            f"in D_aux, and attacks search over labels of D_aux; add such an individual to D_aux, "
            f"or leave the update out"
        )
    return torch.tensor(found)


def _numbered(
    auxiliary: LabelledImages, truth: LabelledImages | None, numbers: dict[str, Tensor]
) -> tuple[LabelledImages, LabelledImages | None]:
    """Return D_aux and the truth with these labels, where there are any."""
    auxiliary = replace(auxiliary, labels=numbers.get("D_aux"))
    return auxiliary, None if truth is None else replace(truth, labels=numbers.get("the truth"))


def _shown(row: Tensor) -> str:
    listed = ", ".join(f"{each:g}" for each in row[:5].tolist())
    return f"({listed}{', …' if len(row) > 5 else ''})"
