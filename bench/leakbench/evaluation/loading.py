"""The data sets of a setup: loaded, or refused where they are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import DataSet, Individuals, unknown_attribute
from leakbench.data.near_duplicates import with_near_duplicates
from leakbench.data.split import task_attributes
from leakbench.evaluation.auxiliary import check_properties
from leakbench.experiments.cell import Setup


def load_individuals(setup: Setup, data_root: Path | None) -> Individuals:
    """Return the setup's data set, with its near-duplicates.

    Raises:
        UsageError: it is unknown, malformed or not there.
    """
    dataset: DataSet = setup.spec("dataset").build(DATASETS)
    check_available(setup, data_root)
    return with_near_duplicates(dataset.load(data_root, setup.image_size))


def load_auxiliary_individuals(setup: Setup, data_root: Path | None) -> Individuals | None:
    """Return the data set that D_aux comes from; None if it is the victims' own.

    Raises:
        UsageError: it is unknown, malformed or not there, or lacks one of the properties.
    """
    if not setup.auxiliary_dataset:
        return None
    dataset: DataSet = setup.spec("auxiliary_dataset").build(DATASETS)
    check_available(setup, data_root)
    individuals = with_near_duplicates(dataset.load(data_root, setup.image_size))
    check_properties(individuals, setup.auxiliary_dataset, setup.properties)
    return individuals


def check_available(setup: Setup, data_root: Path | None) -> None:
    """Refuse a data set whose folder is not there.

    Raises:
        UsageError: says what to download, and how to do without.
    """
    for field in ("dataset", "auxiliary_dataset"):
        if name := getattr(setup, field):
            _check_folder(name, field, data_root)


class AttributesHere:
    """The attributes of data sets, as far as they are known without loading images.

    Args:
        data_root: the folder of data sets.
    """

    def __init__(self, data_root: Path | None) -> None:
        self._data_root = data_root
        self._checked: set[str] = set()

    def require(self, setup: Setup) -> None:
        """Refuse properties, and attributes of the main task, that a data set does not have.

        Raises:
            UsageError: names the first, and the nearest that there is.
        """
        fields = {"properties", "main_task", "image_size"}
        for field in ("dataset", "auxiliary_dataset"):
            fields |= {field, f"{field}_parameters"}
        key = setup.model_dump_json(include=fields)
        if key in self._checked:
            return
        self._checked.add(key)
        wanted = [(name, "property") for name in setup.properties]
        tasks = [(name, "main-task attribute") for name in task_attributes(setup.main_task)]
        self._require("dataset", setup, [*wanted, *tasks])
        if setup.auxiliary_dataset:
            self._require("auxiliary_dataset", setup, wanted)

    def _require(self, field: str, setup: Setup, wanted: Sequence[tuple[str, str]]) -> None:
        dataset: DataSet = setup.spec(field).build(DATASETS)
        try:
            known = dataset.attribute_names(self._data_root)
        except UsageError:
            # What is wrong with its files is said where it is loaded.
            return
        for name, use in wanted:
            if known and name not in known:
                raise unknown_attribute(name, use, known)


def _check_folder(name: str, field: str, data_root: Path | None) -> None:
    dataset: type[DataSet] = DATASETS.get(name)
    if dataset.folder is not None and not (data_root and (data_root / dataset.folder).is_dir()):
        where = f"{data_root / dataset.folder} not found" if data_root else "no --data-root given"
        raise UsageError(
            f"data set {name!r} needs real data: {where}; put {dataset.source} into "
            f"DIR/{dataset.folder} and pass --data-root DIR, or run on the embedded default with "
            f"--set {field}=synthetic"
        )


def fingerprint(individuals: Individuals, auxiliary: Individuals | None) -> str:
    """Return the data set's fingerprint, joined by `+` to that of the one D_aux comes from."""
    return "+".join(each.fingerprint for each in (individuals, auxiliary) if each is not None)


def data_fingerprint(setup: Setup, data_root: Path | None) -> str:
    """Return the fingerprint of a setup's data.

    Raises:
        UsageError: a data set is not as it must be.
    """
    individuals = load_individuals(setup, data_root)
    return fingerprint(individuals, load_auxiliary_individuals(setup, data_root))
