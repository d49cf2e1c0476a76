"""Main-task labels, and the split into clients, D_aux and victims, which share no identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.seeds import seed_for
from leakbench.data.dataset import Individuals
from leakbench.data.people import joined

IDENTITY_TASK = "identity"


@dataclass(frozen=True)
class Split:
    """Disjoint rows of a data set and the main-task classes of all rows.

    Attributes:
        clients: rows that train the shared model, grouped by client.
        auxiliary: rows of D_aux; unused if D_aux comes from another data set.
        victims: rows from which victim batches are sampled; they also test the main task.
        labels: main-task class of every row of the data set, shape (n,); −1 for rows of D_aux
            if the main task is identity, since its identities are not among the classes.
        classes: number K of classes.
    """

    clients: list[NDArray[np.int64]]
    auxiliary: NDArray[np.int64]
    victims: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: int


def split_individuals(
    individuals: Individuals,
    main_task: str,
    clients: int,
    auxiliary_share: float,
    victim_share: float,
    seed: int,
) -> Split:
    """Divide a data set into clients, D_aux and victims.

    No identity of D_aux is a client's or a victim's, no identity belongs to two clients, and no
    victim is in a client's training data. Victims' identities differ from the clients' too, except
    if the main task is identity: then victims are unseen images of the clients' identities.

    Identities that share a photo stay together, and a photo that a client has is no victim: see
    `Individuals.near_duplicates`.

    Raises:
        UsageError: unknown attribute in the main task, or too few individuals for a group.
    """
    random = np.random.default_rng(seed_for("split", seed))
    people, identity = np.unique(individuals.identities, return_inverse=True)
    person = np.searchsorted(people, individuals.people)
    order = random.permutation(len(people))
    share = np.empty(len(people))
    share[order] = (np.arange(len(people)) + 0.5) / len(people)
    in_auxiliary = share[person] < auxiliary_share
    if main_task == IDENTITY_TASK:
        is_victim = ~in_auxiliary & _some_images_of_each(identity, victim_share, random)
        photo = joined(np.arange(len(individuals)), individuals.near_duplicates)
        is_victim &= ~np.isin(photo, photo[~is_victim])
    else:
        is_victim = ~in_auxiliary & (share[person] < auxiliary_share + victim_share)
    is_client = ~in_auxiliary & ~is_victim
    labels, classes = _main_task(individuals, main_task, identity, is_client)
    if main_task == IDENTITY_TASK:
        is_victim &= labels >= 0
    groups = _among_clients(np.flatnonzero(is_client), person, clients, random)
    for name, rows in (("D_aux", in_auxiliary), ("the victims", is_victim)):
        if not rows.any():
            raise UsageError(
                f"{len(individuals)} individuals of {len(people)} identities leave none for "
                f"{name}; use a larger data set or other shares"
            )
    return Split(
        clients=groups,
        auxiliary=np.flatnonzero(in_auxiliary),
        victims=np.flatnonzero(is_victim),
        labels=labels,
        classes=classes,
    )


def task_attributes(main_task: str) -> list[str]:
    """Return the attributes of a main task; none for identity."""
    return [] if main_task == IDENTITY_TASK else main_task.split("+")


def _main_task(
    individuals: Individuals,
    main_task: str,
    person: NDArray[np.int64],
    is_client: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], int]:
    """Return the class of every row and the number of classes: 2ⁿ for n attributes."""
    if main_task == IDENTITY_TASK:
        known = np.unique(person[is_client])
        labels = np.searchsorted(known, person)
        labels[~np.isin(person, known)] = -1
        return labels.astype(np.int64), len(known)
    return attribute_classes(individuals, main_task), 2 ** len(task_attributes(main_task))


def attribute_classes(individuals: Individuals, main_task: str) -> NDArray[np.int64]:
    """Return the class of every row, shape (n,): the main task's attributes as bits.

    Raises:
        UsageError: the data set lacks one of them.
    """
    labels = np.zeros(len(individuals), dtype=np.int64)
    for bit, name in enumerate(task_attributes(main_task)):
        labels += individuals.attribute(name, use="main-task attribute").astype(np.int64) << bit
    return labels


def _some_images_of_each(
    person: NDArray[np.int64], share: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return a mask of about `share` of each person's images; never of a person's only image."""
    rank = np.empty(len(person), dtype=np.int64)
    for rows in np.split(np.argsort(person, kind="stable"), np.cumsum(np.bincount(person))[:-1]):
        rank[rows] = random.permutation(len(rows))
    count = np.bincount(person)[person]
    return rank < np.where(count > 1, np.clip(np.round(share * count), 1, count - 1), 0)


def _among_clients(
    rows: NDArray[np.int64], person: NDArray[np.int64], clients: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return each client's rows: all images of a person, about as many persons per client."""
    people = random.permutation(np.unique(person[rows]))
    if len(people) < clients:
        raise UsageError(
            f"{clients} clients need at least as many identities, but only {len(people)} are left "
            f"for them; use fewer clients"
        )
    client_of = np.full(int(person.max()) + 1, -1)
    client_of[people] = np.arange(len(people)) % clients
    return [rows[client_of[person[rows]] == client] for client in range(clients)]
