"""The split into clients, D_aux and victims."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.data.dataset import Individuals
from leakbench.data.split import Split, split_individuals
from leakbench.datasets.synthetic import Synthetic


def uneven() -> Individuals:
    """Sixty people in no order and with gaps in their numbers, with one to seven images each."""
    random = np.random.default_rng(0)
    numbers = random.permutation(1000)[:60] * 7 - 900
    identities = random.permutation(np.repeat(numbers, random.integers(1, 8, 60)))
    n = len(identities)
    return Individuals(
        images=np.zeros((n, 3, 1, 1), dtype=np.uint8),
        attributes={name: random.random(n) < 0.5 for name in ("hat", "smile", "beard")},
        identities=identities.astype(np.int64),
        fingerprint="uneven",
    )


@pytest.fixture(params=["synthetic", "uneven"])
def people(request: pytest.FixtureRequest) -> Individuals:
    return Synthetic(individuals=400).load(None, 16) if request.param == "synthetic" else uneven()


def split(
    people: Individuals,
    main_task: str = "hat",
    clients: int = 5,
    auxiliary: float = 0.45,
    victims: float = 0.15,
    seed: int = 0,
) -> Split:
    return split_individuals(people, main_task, clients, auxiliary, victims, seed)


def identities(people: Individuals, rows: NDArray[np.int64]) -> set[int]:
    return set(people.identities[rows].tolist())


def training(found: Split) -> NDArray[np.int64]:
    return np.concatenate(found.clients)


each_task = pytest.mark.parametrize("main_task", ["hat", "hat+smile", "identity"])


def test_clients_auxiliary_and_victims_share_no_identity(people: Individuals) -> None:
    found = split(people)
    groups = [identities(people, r) for r in (training(found), found.auxiliary, found.victims)]
    for one, other in combinations(groups, 2):
        assert not one & other


@each_task
def test_nobody_in_the_auxiliary_data_is_a_client_or_a_victim(
    people: Individuals, main_task: str
) -> None:
    found = split(people, main_task)
    others = np.concatenate([training(found), found.victims])
    assert not identities(people, found.auxiliary) & identities(people, others)


@each_task
def test_a_row_is_in_one_group_at_most(people: Individuals, main_task: str) -> None:
    found = split(people, main_task)
    rows = np.concatenate([*found.clients, found.auxiliary, found.victims])
    assert len(np.unique(rows)) == len(rows)
    assert set(rows.tolist()) <= set(range(len(people)))


def test_every_row_is_in_a_group(people: Individuals) -> None:
    found = split(people)
    rows = np.concatenate([*found.clients, found.auxiliary, found.victims])
    assert sorted(rows.tolist()) == list(range(len(people)))


@each_task
def test_nobody_belongs_to_two_clients(people: Individuals, main_task: str) -> None:
    found = split(people, main_task)
    for one, other in combinations(found.clients, 2):
        assert not identities(people, one) & identities(people, other)


@each_task
@pytest.mark.parametrize("clients", [1, 3, 8])
def test_clients_have_the_same_number_of_people(
    people: Individuals, main_task: str, clients: int
) -> None:
    found = split(people, main_task, clients)
    counts = [len(identities(people, rows)) for rows in found.clients]
    assert len(counts) == clients
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("auxiliary", "victims"), [(0.45, 0.15), (0.2, 0.5), (0.6, 0.1)])
def test_groups_have_their_shares_of_the_people(
    people: Individuals, auxiliary: float, victims: float
) -> None:
    found = split(people, auxiliary=auxiliary, victims=victims)
    total = len(np.unique(people.identities))
    assert abs(len(identities(people, found.auxiliary)) - auxiliary * total) <= 1
    assert abs(len(identities(people, found.victims)) - victims * total) <= 1


@pytest.mark.parametrize("share", [0.15, 0.8])
def test_victims_of_an_identity_task_are_unseen_images_of_the_clients_people(
    people: Individuals, share: float
) -> None:
    found = split(people, "identity", victims=share)
    assert identities(people, found.victims) <= identities(people, training(found))
    assert not set(found.victims.tolist()) & set(training(found).tolist())


def test_classes_of_an_identity_task_are_the_clients_people(people: Individuals) -> None:
    found = split(people, "identity")
    known = identities(people, training(found))
    assert found.classes == len(known)
    assert set(found.labels[training(found)].tolist()) == set(range(found.classes))
    assert set(found.labels[found.victims].tolist()) <= set(range(found.classes))
    assert (found.labels[found.auxiliary] == -1).all()
    rows = np.concatenate([training(found), found.victims])
    pairs = set(zip(found.labels[rows].tolist(), people.identities[rows].tolist(), strict=True))
    assert len(pairs) == found.classes


def test_an_identity_task_spares_the_only_image_of_a_person(people: Individuals) -> None:
    found = split(people, "identity")
    person, count = np.unique(people.identities, return_counts=True)
    single = set(person[count == 1].tolist())
    assert not identities(people, found.victims) & single
    assert single <= identities(people, training(found)) | identities(people, found.auxiliary)


def test_an_identity_task_leaves_every_person_an_image_to_learn_from(people: Individuals) -> None:
    found = split(people, "identity", victims=0.9)
    expected = set(people.identities.tolist()) - identities(people, found.auxiliary)
    assert identities(people, training(found)) == expected


@pytest.mark.parametrize(
    ("main_task", "names"),
    [("hat", ["hat"]), ("hat+smile", ["hat", "smile"]), ("smile+hat", ["smile", "hat"])],
)
def test_labels_are_the_attributes_as_bits(
    people: Individuals, main_task: str, names: list[str]
) -> None:
    found = split(people, main_task)
    assert found.classes == 2 ** len(names)
    assert found.labels.dtype == np.int64
    for bit, name in enumerate(names):
        assert ((found.labels >> bit & 1) == people.attributes[name]).all()
    assert (found.labels < found.classes).all()


@each_task
def test_the_same_seed_splits_alike(people: Individuals, main_task: str) -> None:
    one, other = (split(people, main_task, seed=3) for _ in range(2))
    assert np.array_equal(one.auxiliary, other.auxiliary)
    assert np.array_equal(one.victims, other.victims)
    assert np.array_equal(one.labels, other.labels)
    for mine, yours in zip(one.clients, other.clients, strict=True):
        assert np.array_equal(mine, yours)


@each_task
def test_another_seed_splits_otherwise(people: Individuals, main_task: str) -> None:
    one, other = (split(people, main_task, seed=seed) for seed in (3, 4))
    assert identities(people, one.auxiliary) != identities(people, other.auxiliary)
    assert set(one.victims.tolist()) != set(other.victims.tolist())
    assert identities(people, one.clients[0]) != identities(people, other.clients[0])


def test_the_number_of_clients_changes_neither_auxiliary_nor_victims(people: Individuals) -> None:
    one, other = (split(people, clients=clients) for clients in (2, 7))
    assert np.array_equal(one.auxiliary, other.auxiliary)
    assert np.array_equal(one.victims, other.victims)


def few(images: int, each: int = 2) -> Individuals:
    return Individuals(
        images=np.zeros((images, 3, 1, 1), dtype=np.uint8),
        attributes={"hat": np.arange(images) % 2 == 0},
        identities=np.arange(images, dtype=np.int64) // each,
        fingerprint="few",
    )


def test_too_few_people_for_the_clients_are_an_error(people: Individuals) -> None:
    with pytest.raises(UsageError, match=r"100 clients need .* only \d+ are left.*fewer clients"):
        split(people, clients=100)


@pytest.mark.parametrize(
    ("auxiliary", "victims", "group"), [(0.01, 0.5, "D_aux"), (0.5, 0.01, "the victims")]
)
def test_an_empty_group_is_an_error(auxiliary: float, victims: float, group: str) -> None:
    with pytest.raises(UsageError, match=f"20 individuals of 10 identities .*none for {group};"):
        split(few(20), clients=2, auxiliary=auxiliary, victims=victims)


def test_an_identity_task_needs_a_second_image_of_some_identity() -> None:
    with pytest.raises(UsageError, match=r"20 individuals of 20 identities .*the victims;"):
        split(few(20, each=1), "identity", clients=2)


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("main_task", ["hat", "identity"])
def test_next_to_no_data_is_an_error(images: int, main_task: str) -> None:
    with pytest.raises(UsageError):
        split(few(images), main_task, clients=1)


@pytest.mark.parametrize("main_task", ["halo", "hat+halo", "hat+", ""])
def test_an_unknown_main_task_lists_the_attributes(people: Individuals, main_task: str) -> None:
    with pytest.raises(UsageError, match=r"unknown main-task attribute '.*has: .*smile"):
        split(people, main_task)


def with_pairs(people: Individuals, pairs: list[tuple[int, int]]) -> Individuals:
    return replace(people, near_duplicates=np.array(pairs, dtype=np.int64).reshape(-1, 2))


def random_pairs(people: Individuals, count: int) -> Individuals:
    """Return the same people, of whom so many random pairs of rows show the same photo."""
    random = np.random.default_rng(count)
    rows = [sorted(random.choice(len(people), 2, replace=False).tolist()) for _ in range(count)]
    return with_pairs(people, [(one, other) for one, other in rows])


@each_task
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 8, 30])
def test_the_same_photo_is_on_one_side(
    people: Individuals, main_task: str, count: int, seed: int
) -> None:
    joined = random_pairs(people, count)
    found = split(joined, main_task, seed=seed)
    side = np.full(len(people), -1)
    for number, rows in enumerate([found.auxiliary, found.victims, *found.clients]):
        side[rows] = number
    one, other = side[joined.near_duplicates].T
    in_use = (one >= 0) & (other >= 0)
    assert in_use.any()
    assert (one == other)[in_use].all()
    if main_task != "identity":
        assert in_use.all()
        sides = [identities(people, r) for r in (*found.clients, found.auxiliary, found.victims)]
        assert sum(map(len, sides)) == len(np.unique(people.identities))


@each_task
def test_without_a_photo_under_two_identities_the_split_is_the_same(
    people: Individuals, main_task: str
) -> None:
    before = split(people, main_task)
    _, first = np.unique(people.identities, return_index=True)
    several = [np.flatnonzero(people.identities == people.identities[row]) for row in first]
    within = [(rows[0], rows[1]) for rows in several if len(rows) > 1]
    after = split(with_pairs(people, [] if main_task == "identity" else within), main_task)
    for one, other in zip(
        [before.auxiliary, before.victims, *before.clients],
        [after.auxiliary, after.victims, *after.clients],
        strict=True,
    ):
        assert np.array_equal(one, other)


def test_only_joined_identities_change_sides(people: Individuals) -> None:
    before, after = split(people), split(random_pairs(people, 3))
    joined = random_pairs(people, 3)
    moved = set(before.auxiliary.tolist()) ^ set(after.auxiliary.tolist())
    moved |= set(before.victims.tolist()) ^ set(after.victims.tolist())
    assert moved <= set(np.flatnonzero(joined.people != joined.identities).tolist())


def test_a_photo_that_a_client_has_is_no_victim_where_victims_are_images_of_clients() -> None:
    people = uneven()
    before = split(people, "identity")
    clients = training(before)
    victim, own = next(
        (row, clients[people.identities[clients] == people.identities[row]][0])
        for row in before.victims
    )
    after = split(with_pairs(people, [(min(victim, own), max(victim, own))]), "identity")
    assert victim not in after.victims
    assert victim in training(after)
    assert set(after.victims.tolist()) == set(before.victims.tolist()) - {int(victim)}


def test_identities_joined_into_fewer_people_than_clients_are_refused() -> None:
    people = uneven()
    _, first = np.unique(people.identities, return_index=True)
    chain = [(min(a, b), max(a, b)) for a, b in pairwise(first[3:].tolist())]
    with pytest.raises(UsageError, match="need at least as many identities"):
        split(with_pairs(people, chain))
