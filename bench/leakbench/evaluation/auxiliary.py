"""D_aux: who is in it, from the victims' data set or from another, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.seeds import seed_for
from leakbench.data.dataset import Individuals
from leakbench.data.images import to_images
from leakbench.data.near_duplicates import near_duplicates_of
from leakbench.data.people import joined
from leakbench.data.split import IDENTITY_TASK, Split, attribute_classes, task_attributes
from leakbench.threat.server import Auxiliary


def other_people(
    individuals: Individuals, victims_set: Individuals, split: Split, *, same_people: bool
) -> NDArray[np.int64]:
    """Return the rows of people who are neither clients nor victims of another data set.

    Args:
        individuals: the data set that D_aux comes from.
        victims_set: that of clients and victims, images of the same size.
        same_people: whether equal identities mean the same person in both, as in two selections
            of one data set. In any case people are the same if they share a photo.
    """
    both = [victims_set.identities, individuals.identities]
    if not same_people:
        both = [np.unique(each, return_inverse=True)[1] for each in both]
        both[1] += len(victims_set)
    people = joined(np.concatenate(both), near_duplicates_of(victims_set, individuals))
    taken = people[np.concatenate([*split.clients, split.victims])]
    return np.flatnonzero(~np.isin(people[len(victims_set) :], taken))


def at_most(
    rows: NDArray[np.int64], identities: NDArray[np.int64], limit: int | None, seed: int
) -> NDArray[np.int64]:
    """Return as many of the rows as the limit allows, person by person in random order.

    A lower limit leaves a part of what a higher one leaves.

    Args:
        rows: ascending, shape (n,).
        identities: of every row of the data set.
        limit: None for all.
    """
    if limit is None or limit >= len(rows):
        return rows
    people, person = np.unique(identities[rows], return_inverse=True)
    order = np.random.default_rng(seed_for("auxiliary", seed)).permutation(len(people))
    return np.sort(rows[np.argsort(order[person], kind="stable")[:limit]])


def foreign_labels(individuals: Individuals, main_task: str) -> NDArray[np.int64]:
    """Return the main-task classes of individuals of another data set, shape (n,).

    −1 for all of them where that set lacks one of the main task's attributes, or where the main
    task is identity.
    """
    known = set(task_attributes(main_task)) <= set(individuals.attributes)
    if main_task == IDENTITY_TASK or not known:
        return np.full(len(individuals), -1)
    return attribute_classes(individuals, main_task)


def check_properties(individuals: Individuals, dataset: str, properties: Sequence[str]) -> None:
    """Refuse a data set that does not know the properties.

    Raises:
        UsageError: names the first that is missing, and those that there are.
    """
    for name in properties:
        if name not in individuals.attributes:
            raise UsageError(
                f"D_aux is to come from {dataset}, which has no property {name!r}; choose others "
                f"of its {', '.join(individuals.attributes)}, or another `auxiliary_dataset`"
            )


def auxiliary_of(
    individuals: Individuals,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    properties: Sequence[str],
    device: str,
) -> Auxiliary:
    """Return D_aux as the server holds it.

    Args:
        individuals: the data set that D_aux comes from.
        rows: who is in it.
        labels: main-task class of every row of the data set; −1 where it has none.
    """
    return Auxiliary(
        images=to_images(individuals.images[rows], device),
        labels=torch.from_numpy(labels[rows]).to(device),
        properties={
            name: torch.from_numpy(individuals.attribute(name, "property")[rows]).to(device)
            for name in properties
        },
        identities=torch.from_numpy(np.array(individuals.people[rows])).to(device),
    )
