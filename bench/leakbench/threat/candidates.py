"""Candidates for membership inference: half are in the victim batch, half are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.threat.observation import GroundTruth


@dataclass(frozen=True)
class Candidates:
    """A batch's individuals and as many others, in random order.

    Attributes:
        images: in [0, 1], shape (2B, 3, size, size).
        members: whether the image is in the batch, shape (2B,).
        identities: number of the person or object shown, shape (2B,).
    """

    images: Tensor
    members: Tensor
    identities: Tensor


def candidates_of(truths: Sequence[GroundTruth], generator: torch.Generator) -> list[Candidates]:
    """Return the candidates for each batch: its individuals, and as many of other batches.

    Over all batches each individual is a member once and a non-member once, so that how often an
    image is shown, or with which others, tells nothing. The non-members share no identity with the
    batch, and none with each other if no batch has one twice. Where possible, the second photos of
    people are non-members among the second photos, as they are members. Among all such assignments
    one is chosen at random.

    Args:
        generator: on the CPU, of randomness that the adversary cannot draw again.

    Raises:
        UsageError: there is no such assignment, or none is found.
    """
    images = torch.cat([truth.images for truth in truths])
    identities = torch.cat([truth.identities for truth in truths])
    _check_enough(truths, identities)
    batch_of = [batch for batch, truth in enumerate(truths) for _ in range(len(truth))]
    people = identities.tolist()
    assignment = _Assignment(people, batch_of, _occurrences(people), generator)
    if not assignment.repaired():
        # The second photos are too few, perhaps all in one batch: let them be anywhere.
        assignment = _Assignment(people, batch_of, [0] * len(people), generator)
        if not assignment.repaired():
            raise UsageError(
                f"candidates need each of {len(people)} victims as a non-member of one of "
                f"{len(truths)} batches in which the person is not, and too many show the same "
                f"people; raise individuals, or lower batch_size"
            )
    assignment.mix()
    assigned = torch.tensor(assignment.chosen)
    batch = torch.tensor(batch_of)
    return [
        _shuffled(images, identities, batch == number, assigned, generator)
        for number in range(len(truths))
    ]


def _check_enough(truths: Sequence[GroundTruth], identities: Tensor) -> None:
    for batch in truths:
        others = int((~torch.isin(identities, batch.identities)).sum())
        if others < len(batch):
            raise UsageError(
                f"candidates for a batch of {len(batch)} need as many victims of other batches, "
                f"and there are {others}; raise individuals, or lower batch_size"
            )


def _shuffled(
    images: Tensor, identities: Tensor, own: Tensor, assigned: Tensor, generator: torch.Generator
) -> Candidates:
    """Return a batch's candidates.

    Args:
        own: whether an individual is in the batch, shape (n,).
        assigned: for each individual the one that is a non-member in its batch, shape (n,).
    """
    size = int(own.sum())
    rows = torch.cat([own.nonzero().flatten(), assigned[own]])
    order = torch.randperm(2 * size, generator=generator)
    return Candidates(
        images=images[rows[order].to(images.device)],
        members=(torch.arange(2 * size) < size)[order],
        identities=identities[rows[order]],
    )


def _occurrences(people: Sequence[int]) -> list[int]:
    """Return how often each person occurs before in the list."""
    before: Counter[int] = Counter()
    ranks = []
    for person in people:
        ranks.append(before[person])
        before[person] += 1
    return ranks


class _Assignment:
    """A permutation of the individuals: who is a non-member in whose batch.

    It starts at random, is repaired by random swaps, and mixed by further ones: a swap and its
    reverse are equally likely, so that all permitted permutations become equally likely.

    Attributes:
        chosen: for each individual the one that is a non-member in its batch.
    """

    def __init__(
        self,
        people: Sequence[int],
        batch_of: Sequence[int],
        group_of: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        """Begin at random.

        Args:
            people: of each individual.
            batch_of: the number of each individual's batch.
            group_of: the number of each individual's group, within which it is assigned.
        """
        self.people, self.batch_of, self.group_of = people, batch_of, group_of
        self.generator = generator
        self.members: list[set[int]] = [set() for _ in range(max(batch_of) + 1)]
        repeated = False
        for person, batch in zip(people, batch_of, strict=True):
            repeated |= person in self.members[batch]
            self.members[batch].add(person)
        self.distinct = not repeated
        self.chosen = self._within_groups()
        self.shown: list[dict[int, int]] = [{} for _ in self.members]
        for position, individual in enumerate(self.chosen):
            self._count(position, individual, 1)

    def repaired(self) -> bool:
        """Swap until everybody fits; return whether that is reached."""
        for _ in range(REPAIRS):
            wrong = [p for p in range(len(self.people)) if not self._fits(p, self.chosen[p])]
            if not wrong:
                return True
            for position, other in zip(wrong, self._random(len(wrong)), strict=True):
                self._swap(position, other, repairing=True)
        return False

    def mix(self) -> None:
        """Swap at random where both fit before and after."""
        steps = MIXING * len(self.people)
        for position, other in zip(self._random(steps), self._random(steps), strict=True):
            self._swap(position, other)

    def _within_groups(self) -> list[int]:
        """Return a permutation that is random within each group."""
        order = torch.randperm(len(self.people), generator=self.generator).tolist()
        waiting: dict[int, list[int]] = {}
        for individual in order:
            waiting.setdefault(self.group_of[individual], []).append(individual)
        return [waiting[group].pop() for group in self.group_of]

    def _random(self, count: int) -> list[int]:
        drawn = torch.randint(len(self.people), (count,), generator=self.generator)
        return drawn.tolist()

    def _count(self, position: int, individual: int, change: int) -> None:
        shown, person = self.shown[self.batch_of[position]], self.people[individual]
        shown[person] = shown.get(person, 0) + change

    def _fits(self, position: int, individual: int) -> bool:
        """Whether an individual who is assigned to a position may be a non-member there."""
        batch, person = self.batch_of[position], self.people[individual]
        alone = not self.distinct or self.shown[batch][person] == 1
        return alone and person not in self.members[batch]

    def _swap(self, one: int, other: int, *, repairing: bool = False) -> None:
        """Exchange two assignments if both fit then; to repair, if as many fit as before."""
        if self.group_of[one] != self.group_of[other]:
            return
        before = self._fitting(one, other) if repairing else 2
        self._exchange(one, other)
        if self._fitting(one, other) < before:
            self._exchange(one, other)

    def _fitting(self, one: int, other: int) -> int:
        return self._fits(one, self.chosen[one]) + self._fits(other, self.chosen[other])

    def _exchange(self, one: int, other: int) -> None:
        for position in (one, other):
            self._count(position, self.chosen[position], -1)
        self.chosen[one], self.chosen[other] = self.chosen[other], self.chosen[one]
        for position in (one, other):
            self._count(position, self.chosen[position], 1)


REPAIRS = 1000
"""Rounds in which each wrong assignment is swapped with a random one."""

MIXING = 20
"""Swaps tried for each individual once the assignment is permitted."""
