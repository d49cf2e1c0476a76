"""Candidates: who is shown with which batch, and that the lists tell nothing by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from leakbench.base.errors import UsageError
from leakbench.threat.candidates import Candidates, candidates_of
from leakbench.threat.observation import GroundTruth


def truth(identities: list[int], first: int) -> GroundTruth:
    """Return a batch of these people, whose images are constant and numbered from `first`."""
    numbers = torch.arange(first, first + len(identities)).float()
    return GroundTruth(
        images=numbers[:, None, None, None].expand(-1, 3, 2, 2),
        labels=torch.zeros(len(identities), dtype=torch.long),
        features=torch.zeros(len(identities), 1),
        properties={},
        identities=torch.tensor(identities),
    )


def batches(people: list[list[int]]) -> list[GroundTruth]:
    sizes = np.cumsum([0, *map(len, people)])
    return [truth(each, int(first)) for each, first in zip(people, sizes, strict=False)]


def shown(candidates: Candidates) -> list[int]:
    """Return the numbers of the images in a list."""
    return candidates.images[:, 0, 0, 0].long().tolist()


def lists(people: list[list[int]], seed: int) -> list[Candidates]:
    return candidates_of(batches(people), torch.Generator().manual_seed(seed))


def different(count: int, size: int) -> list[list[int]]:
    """Return batches of people of whom each is shown once."""
    return np.arange(count * size).reshape(count, size).tolist()


def in_two_photos(count: int, size: int, seed: int = 0) -> list[list[int]]:
    """Return batches in which each person is shown twice, everybody once before anybody twice."""
    random = np.random.default_rng(seed)
    passes = [random.permutation(count * size // 2) for _ in range(2)]
    return np.concatenate(passes).reshape(count, size).tolist()


each_kind = pytest.mark.parametrize(
    "people",
    [different(2, 4), different(8, 1), different(6, 8), in_two_photos(8, 4), in_two_photos(12, 1)],
    ids=["two", "alone", "many", "two photos", "two photos alone"],
)


@each_kind
@pytest.mark.parametrize("seed", range(5))
def test_each_victim_is_a_member_once_and_a_non_member_once(
    people: list[list[int]], seed: int
) -> None:
    found = lists(people, seed)
    sizes = [len(each) for each in people]
    members = [sorted(np.array(shown(each))[each.members.numpy()].tolist()) for each in found]
    assert np.concatenate(members).tolist() == list(range(sum(sizes)))
    assert [len(each) for each in members] == sizes
    counts = Counter(number for each in found for number in shown(each))
    assert set(counts.values()) == {2}
    assert len(counts) == sum(sizes)


@each_kind
@pytest.mark.parametrize("seed", range(5))
def test_no_non_member_is_a_person_of_the_batch_or_shown_twice(
    people: list[list[int]], seed: int
) -> None:
    for each, batch in zip(lists(people, seed), people, strict=True):
        others = each.identities[~each.members].tolist()
        assert not set(others) & set(batch)
        assert len(set(others)) == len(others)


def test_they_are_in_random_order_and_the_same_for_the_same_seed() -> None:
    found, again, another = (lists(different(6, 8), seed) for seed in (0, 0, 1))
    assert [shown(each) for each in found] == [shown(each) for each in again]
    assert [shown(each) for each in found] != [shown(each) for each in another]
    firsts = [sum(lists(different(4, 1), seed)[0].members[:1].tolist()) for seed in range(200)]
    assert 70 < sum(firsts) < 130


def test_each_other_batch_is_as_likely_for_a_non_member() -> None:
    places: Counter[int] = Counter()
    for seed in range(600):
        for number, each in enumerate(lists(different(4, 2), seed)):
            if 0 in shown(each) and number != 0:
                places[number] += 1
    assert sum(places.values()) == 600
    assert all(abs(places[number] - 200) < 50 for number in (1, 2, 3))


def counts(found: list[Candidates]) -> list[float]:
    """Return in how many lists each candidate is."""
    number = Counter(image for each in found for image in shown(each))
    return [float(number[image]) for each in found for image in shown(each)]


def seen_together(found: list[Candidates]) -> list[float]:
    """Return how many lists that a candidate is in have others of this list in them."""
    sets = [set(shown(each)) for each in found]
    return [
        float(sum(len(own & other) for other in sets if other is not own and image in other))
        for own, each in zip(sets, found, strict=True)
        for image in shown(each)
    ]


def same_person(found: list[Candidates]) -> list[float]:
    """Return in how many lists that share an image with this one a candidate's person is shown."""
    sets = [set(shown(each)) for each in found]
    people = [set(each.identities.tolist()) for each in found]
    return [
        float(sum(person in p for p, s in zip(people, sets, strict=True) if s & own))
        for own, each in zip(sets, found, strict=True)
        for person in each.identities.tolist()
    ]


def same_person_early(found: list[Candidates]) -> list[float]:
    """Return how often a candidate's person is shown in the half of the lists with this one."""
    half = len(found) // 2
    halves = [
        Counter(person for each in part for person in each.identities.tolist())
        for part in (found[:half], found[half:])
    ]
    return [
        float(halves[number >= half][person])
        for number, each in enumerate(found)
        for person in each.identities.tolist()
    ]


def place(found: list[Candidates]) -> list[float]:
    """Return where in its list each candidate is."""
    return [float(i) for each in found for i in range(len(each.members))]


@pytest.mark.parametrize("photos", [1, 2])
@pytest.mark.parametrize(
    "adversary", [counts, seen_together, same_person, same_person_early, place]
)
def test_the_lists_alone_tell_nothing(
    photos: int, adversary: Callable[[list[Candidates]], list[float]]
) -> None:
    areas = []
    for seed in range(100):
        found = lists(different(8, 4) if photos == 1 else in_two_photos(8, 4, seed), seed)
        members = torch.cat([each.members for each in found]).numpy()
        areas.append(roc_auc_score(members, adversary(found)))
    error = np.std(areas, ddof=1) / 10
    assert error < 0.01
    assert abs(np.mean(areas) - 0.5) <= 2.5 * error + 1e-12


def test_a_few_second_photos_in_one_batch_are_non_members_elsewhere() -> None:
    people = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 4]]
    for each, batch in zip(lists(people, 0), people, strict=True):
        assert not set(each.identities[~each.members].tolist()) & set(batch)


def test_of_too_few_others_a_sentence_says_so() -> None:
    with pytest.raises(UsageError, match="there are 0; raise individuals, or lower batch_size"):
        lists(different(1, 4), 0)


def test_an_assignment_that_does_not_exist_is_refused() -> None:
    # Person 0 is in all batches but one, and would be a non-member four times in this one.
    people = [[0, 1], [0, 2], [0, 3], [0, 4], [5, 6]]
    with pytest.raises(UsageError, match="too many show the same people; raise individuals"):
        lists(people, 0)
