"""Facts about D_aux: who is in it, and that it may come from another data set than the victims'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import DataSet, Individuals
from leakbench.datasets.synthetic import Synthetic
from leakbench.evaluation.auxiliary import at_most, foreign_labels, other_people
from leakbench.evaluation.loading import check_available
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import load_suite
from leakbench.records.identity import content_key
from leakbench.records.measured import Measured
from leakbench.records.store import Store
from leakbench.reports.rows import LAYOUTS, varying_settings
from leakbench.reports.suite_report import SuiteReport, reading_aid
from leakbench.threat.server import Auxiliary

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Portraits(DataSet):
    """Drawn faces of other people, of whom two properties are known; numbered like the others."""

    folder = None
    source = ""
    properties = ("gender", "glasses")

    def load(self, data_root: Path | None, size: int) -> Individuals:
        drawn = Synthetic(individuals=120, seed=7).load(data_root, size)
        return Individuals(
            images=drawn.images,
            attributes={name: drawn.attributes[name] for name in self.properties},
            identities=drawn.identities,
            fingerprint="portraits",
        )


@pytest.fixture(autouse=True)
def portraits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the other data set for a test's time."""
    monkeypatch.setitem(DATASETS._plugins, "portraits", Portraits)


def context(setup: Setup, **fields: object) -> EvaluationContext:
    changed = Setup.model_validate(setup.model_dump() | fields)
    return prepare(changed, None, "cpu", lambda message: None)


def auxiliary(found: EvaluationContext) -> Auxiliary:
    assert found.server.auxiliary is not None
    return found.server.auxiliary


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in (images * 255).round().byte()}


def test_keys_of_published_cells_are_what_they_were() -> None:
    store = Store(RESULTS / "records")
    records = list(store.all())
    assert records
    assert not store.unusable(path.stem for path in store.folder.glob("*.json"))
    assert all(content_key(record) == record.key for record in records)


@pytest.mark.parametrize(
    ("field", "value"),
    [("auxiliary_dataset", "celeba"), ("auxiliary_individuals", 100)],
)
def test_a_key_holds_what_departs_from_earlier_cells(
    small_setup: Setup, field: str, value: object
) -> None:
    content = small_setup.model_dump() | {"attack": "prior", "batch_size": 1}
    plain, changed = (Cell.model_validate(content | more) for more in ({}, {field: value}))
    assert plain.key(1) != changed.key(1)
    assert plain.training_key("data") == changed.training_key("data")


def test_d_aux_is_the_other_data_set_whole(small_setup: Setup) -> None:
    own, crossed = context(small_setup), context(small_setup, auxiliary_dataset="portraits")
    other = Portraits().load(None, 32)
    found = auxiliary(crossed)
    assert rows(found.images) == rows(torch.from_numpy(np.array(other.images)) / 255)
    for name, present in found.properties.items():
        assert torch.equal(present, torch.from_numpy(other.attributes[name]))
    assert not rows(found.images) & rows(torch.from_numpy(np.array(own.individuals.images)) / 255)
    assert crossed.server.feature_space is not None
    assert crossed.server.feature_space.features.shape[0] == len(other)


def test_another_d_aux_changes_neither_the_shared_model_nor_the_victims(small_setup: Setup) -> None:
    own, crossed = context(small_setup), context(small_setup, auxiliary_dataset="portraits")
    assert np.array_equal(own.split.victims, crossed.split.victims)
    assert own.server.model is not None
    assert crossed.server.model is not None
    ours = own.server.model.state_dict()
    for name, weights in crossed.server.model.state_dict().items():
        assert torch.equal(weights, ours[name])


def test_a_set_without_the_main_task_has_no_labels(small_setup: Setup) -> None:
    crossed = context(small_setup, auxiliary_dataset="portraits")
    assert (auxiliary(crossed).labels == -1).all()
    assert crossed.main_task["labelled_auxiliary"] == 0
    assert context(small_setup).main_task["labelled_auxiliary"] == 1


def test_labels_are_the_main_task_s_where_the_set_has_its_attributes() -> None:
    people = Synthetic(individuals=64).load(None, 16)
    labels = foreign_labels(people, "hat+smile")
    assert (labels == people.attributes["hat"] + 2 * people.attributes["smile"]).all()
    assert (foreign_labels(people, "hat+halo") == -1).all()
    assert (foreign_labels(people, "identity") == -1).all()


def test_without_labels_anybody_is_drawn_and_nobody_twice(small_setup: Setup) -> None:
    found = auxiliary(context(small_setup, auxiliary_dataset="portraits"))
    drawn = [
        found.draw(torch.tensor([0, 0, 1, 7]), 4, torch.Generator().manual_seed(seed)).tolist()
        for seed in range(8)
    ]
    assert all(len(set(each)) == 4 for each in drawn)
    assert len({row for each in drawn for row in each}) > 16


@pytest.mark.parametrize("labels", [None, [0, 0, 0, 0, 0]])
def test_more_than_d_aux_holds_are_drawn_again(labels: list[int] | None) -> None:
    few = Auxiliary(torch.zeros(2, 3, 1, 1), torch.tensor([0, 0]), {}, torch.tensor([0, 1]))
    wanted = None if labels is None else torch.tensor(labels)
    drawn = few.draw(wanted, 5, torch.Generator().manual_seed(0)).tolist()
    assert len(drawn) == 5
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize("label", [None, 0, 1, 2])
def test_individuals_are_drawn_again_as_often_as_each_other_and_in_another_order(
    label: int | None,
) -> None:
    """Of a label that an individual has, of one that none has (2), and of any label."""
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    few = Auxiliary(torch.zeros(7, 3, 1, 1), labels, {}, torch.arange(7))
    members = (labels == label).nonzero().flatten().tolist() if label in {0, 1} else list(range(7))
    count = 3 * len(members)
    wanted = None if label is None else torch.full((count,), label)
    orders = set()
    for seed in range(8):
        drawn = few.draw(wanted, count, torch.Generator().manual_seed(seed)).tolist()
        rounds = [drawn[n : n + len(members)] for n in range(0, count, len(members))]
        assert all(sorted(each) == members for each in rounds)
        orders.add(len({tuple(each) for each in rounds}))
    assert max(orders) > 1


def test_a_label_that_nobody_has_and_one_that_is_exhausted_share_individuals_evenly() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    few = Auxiliary(torch.zeros(4, 3, 1, 1), labels, {}, torch.arange(4))
    wanted = torch.tensor([5, 0, 5, 0, 1, 1, 0, 1])
    drawn = few.draw(wanted, 8, torch.Generator().manual_seed(0))
    of_label = [labels[row].item() for row, label in zip(drawn, wanted, strict=True) if label < 2]
    assert of_label == [0, 0, 1, 1, 0, 1]
    assert torch.bincount(drawn, minlength=4).max() <= 3


def drawn_before(few: Auxiliary, labels: list[int], generator: torch.Generator) -> list[int]:
    """Each label's first individual in one random order that is not taken."""
    order = torch.randperm(len(few.labels), generator=generator)
    shuffled = few.labels[order]
    taken: list[int] = []
    for label in labels:
        fitting = order[shuffled == label].tolist() or order.tolist()
        taken.append(next(row for row in fitting if row not in taken))
    return taken


def test_published_draws_stay_while_no_label_is_exhausted() -> None:
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        has = torch.randint(4, (60,), generator=random)
        few = Auxiliary(torch.zeros(60, 3, 1, 1), has, {}, torch.arange(60))
        wanted = torch.randint(5, (6,), generator=random)
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        drawn = few.draw(wanted, 6, one).tolist()
        assert drawn == drawn_before(few, wanted.tolist(), other)
        assert torch.equal(one.get_state(), other.get_state())
        anybody = few.draw(None, 60, one)
        assert torch.equal(anybody, torch.randperm(60, generator=other))


def test_nobody_of_the_same_data_set_is_on_both_sides(small_setup: Setup) -> None:
    parameters = {"individuals": 600}
    found = context(
        small_setup, auxiliary_dataset="synthetic", auxiliary_dataset_parameters=parameters
    )
    taken = np.concatenate([*found.split.clients, found.split.victims])
    known = set(found.individuals.identities[taken].tolist())
    inside = set(auxiliary(found).identities.tolist())
    assert not known & inside
    everybody = set(Synthetic(individuals=600).load(None, 32).identities.tolist())
    assert inside == everybody - known


def changed(people: Individuals, copies: dict[int, np.ndarray], fingerprint: str) -> Individuals:
    images = np.array(people.images)
    for row, image in copies.items():
        images[row] = image
    return replace(people, images=images, fingerprint=fingerprint)


@pytest.mark.parametrize("same_people", [True, False])
def test_who_shares_a_photo_with_a_client_or_a_victim_is_not_in_another_set_s_d_aux(
    small_setup: Setup, same_people: bool
) -> None:
    context_ = context(small_setup, rounds=0)
    individuals, split = context_.individuals, context_.split
    others = Synthetic(individuals=120, seed=7).load(None, small_setup.image_size)
    others = replace(others, identities=others.identities + 10_000)
    taken, free = individuals.images[split.clients[0][0]], individuals.images[split.auxiliary[0]]
    copied = changed(others, {9: taken, 50: free}, f"others {same_people}")
    found = other_people(copied, individuals, split, same_people=same_people)
    excluded = np.flatnonzero(others.identities == others.identities[9])
    assert len(excluded) == 4
    assert sorted(set(range(120)) - set(found.tolist())) == excluded.tolist()
    everybody = other_people(others, individuals, split, same_people=same_people)
    assert everybody.tolist() == list(range(120))


def test_equal_numbers_mean_the_same_person_in_one_data_set_only(small_setup: Setup) -> None:
    context_ = context(small_setup, rounds=0)
    individuals, split = context_.individuals, context_.split
    others = Synthetic(individuals=120, seed=7).load(None, small_setup.image_size)
    found = other_people(others, individuals, split, same_people=True)
    assert set(others.identities[found]) <= set(individuals.identities[split.auxiliary])
    assert len(other_people(others, individuals, split, same_people=False)) == 120


def test_a_data_set_all_of_whose_people_are_taken_is_an_error(small_setup: Setup) -> None:
    taken = next(
        seed
        for seed in range(20)
        if 0 not in context(small_setup, seed=seed, rounds=0).split.auxiliary
    )
    with pytest.raises(UsageError, match="everybody in synthetic is a client or a victim"):
        context(
            small_setup,
            seed=taken,
            rounds=0,
            auxiliary_dataset="synthetic",
            auxiliary_dataset_parameters={"individuals": 4},
        )


def test_a_missing_property_is_an_error_that_names_set_and_property(small_setup: Setup) -> None:
    with pytest.raises(UsageError, match=r"portraits, which has no property 'smile'.*gender"):
        context(small_setup, auxiliary_dataset="portraits", properties=("gender", "smile"))


def test_parameters_without_a_data_set_are_an_error(small_setup: Setup) -> None:
    with pytest.raises(ValueError, match="no auxiliary_dataset; name the data set"):
        Setup.model_validate(
            small_setup.model_dump() | {"auxiliary_dataset_parameters": {"seed": 1}}
        )


def test_the_folder_of_either_data_set_must_be_there(small_setup: Setup) -> None:
    crossed = small_setup.model_copy(update={"auxiliary_dataset": "celeba"})
    with pytest.raises(UsageError, match=r"'celeba' needs real.*--set auxiliary_dataset=synthetic"):
        check_available(crossed, None)


@pytest.mark.parametrize("limit", [1, 7, 30, 59])
def test_a_limit_leaves_so_many_person_by_person(limit: int) -> None:
    identities = np.repeat(np.random.default_rng(0).permutation(15), 4)
    found = at_most(np.arange(60), identities, limit, seed=0)
    assert len(found) == limit
    _, images = np.unique(identities[found], return_counts=True)
    assert (images < 4).sum() <= 1
    assert set(found.tolist()) <= set(at_most(np.arange(60), identities, limit + 1, 0).tolist())


def test_no_limit_leaves_all() -> None:
    assert at_most(np.arange(5), np.arange(5), None, 0).tolist() == [0, 1, 2, 3, 4]
    assert at_most(np.arange(5), np.arange(5), 9, 0).tolist() == [0, 1, 2, 3, 4]


SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 400 }
properties = ["gender", "glasses"]
main_task = "8-class"
model_parameters = { width = 4 }
rounds = 2
victim_share = 0.2
batch_size = 4
individuals = 16
auxiliary_dataset_parameters = { individuals = 500, seed = 3 }
auxiliary_dataset = "synthetic"

[attack.feature]
parameters = { budget = 3 }

[attack.prior]

[attack.blind]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "Table 3"
layout = "table3"
"""


def test_a_cross_suite_runs_and_says_where_d_aux_comes_from(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "cross.toml").write_text(SUITE)
    code, out, err = run("run", "cross.toml", "--workers", "1", "--device", "cpu", "--out", "out")
    assert code == 0, err
    assert "| data set        | D_aux           | property" in out
    assert (
        "reserved and not used, since D_aux is synthetic (subject = faces, individuals = 500" in out
    )
    assert "some victims may appear in it too" not in out  # one numbering of people
    record = Store(tmp_path / "out" / "records").read(expand(*load_suite("cross.toml"))[0].key)
    assert record is not None
    own, other = (Synthetic(individuals=n, seed=s).fingerprint(32) for n, s in ((400, 0), (500, 3)))
    assert record.fingerprint == f"{own}+{other}"
    assert f"synthetic {own}, synthetic {other}" in out
    again = run("run", "cross.toml", "--workers", "1", "--device", "cpu", "--out", "out")
    assert "4 of 4 cells have their record" in again[2]


def test_parameters_are_those_of_the_other_data_set_only(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(
        SUITE.replace('auxiliary_dataset = "synthetic"\n', "")
        + 'sweep = { auxiliary_dataset = ["synthetic", ""] }\n'
    )
    cells = [entry.cell for entry in expand(*load_suite(str(path)))]
    given = {cell.auxiliary_dataset: cell.auxiliary_dataset_parameters for cell in cells}
    assert given["synthetic"]["seed"] == 3
    assert given[""] == {}


def test_a_set_that_is_both_the_victims_own_and_another_has_its_parameters_once() -> None:
    entries = expand(*load_suite("table3"))
    assert len({str(each.cell.auxiliary_dataset_parameters) for each in entries}) == 3
    tables = {each.group for each in entries}
    assert len(tables) == 2
    for table in tables:
        shown = [each for each in entries if each.group == table]
        assert varying_settings(shown, LAYOUTS["table3"]) == []


def test_it_is_said_that_another_set_may_show_victims() -> None:
    cells = [Measured(each, None) for each in expand(*load_suite("table3"))]
    crossed = [m for m in cells if m.entry.cell.auxiliary_dataset]
    own = [m for m in cells if not m.entry.cell.auxiliary_dataset]
    assert "some victims may appear in it too" in reading_aid(crossed)
    assert "some victims may appear in it too" not in reading_aid(own)


def measured(cell: Cell) -> Measured:
    return Measured(SuiteEntry(ResolvedCell.of(cell), "0", "Table 3", "table3", "Blind"), None)


def test_settings_name_the_limit(small_setup: Setup) -> None:
    content = small_setup.model_dump() | {"attack": "blind", "batch_size": 1}
    cell = Cell.model_validate(content | {"auxiliary_individuals": 50})
    assert "are in D_aux (at most 50 individuals)" in SuiteReport([measured(cell)]).settings
