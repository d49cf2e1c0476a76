"""Checks of data sets."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS, Registry
from leakbench.conformance.check import FindingError, NotCheckedError, Trial, checks
from leakbench.conformance.declarations import DECLARATIONS, refuse_empty
from leakbench.conformance.global_state import fingerprints, refuse_moved, seeded
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.split import split_individuals, task_attributes

SIZE = 32
"""Image size of most checks, in pixels."""


@dataclass(frozen=True)
class DatasetTrial(Trial):
    """A data set and the folder of its files.

    Attributes:
        data_root: folder of the data sets; None where there is none.
    """

    registry: Registry = field(default=DATASETS, init=False)
    data_root: Path | None = None

    @property
    def dataset(self) -> DataSet:
        """The data set with the parameters of its example, its defaults if it has none."""
        return self.built  # type: ignore[no-any-return]

    def load(self, size: int = SIZE) -> Individuals:
        """Load it again.

        Raises:
            NotCheckedError: its files are missing.
        """
        folder = self.dataset.folder
        if folder is not None and not (self.data_root and (self.data_root / folder).is_dir()):
            raise NotCheckedError(f"its folder {folder}/ is missing; pass --data-root DIR")
        return self.dataset.load(self.data_root, size)

    @cached_property
    def individuals(self) -> Individuals:
        """The data set, loaded once."""
        return self.load()


def describes_itself(trial: DatasetTrial) -> None:
    """`leakbench datasets list` says how large it is, on what terms, and where to get it."""
    refuse_empty(trial, "size", "terms")
    for attribute in ("size", "terms"):
        if getattr(trial.plugin, attribute) == getattr(DataSet, attribute):
            raise FindingError(
                f"{trial} does not state its {attribute}; write `{attribute} = …` in its class"
            )
    folder, source = trial.plugin.folder, trial.plugin.source
    if (folder is None) != (not source):
        raise FindingError(
            f"{trial} has folder {folder!r} and source {source!r}; a data set of files has both, "
            f"an embedded one `folder = None` and an empty source"
        )
    properties = trial.plugin.properties
    if not isinstance(properties, tuple) or not properties:
        raise FindingError(
            f"{trial} has properties {properties!r}; name at least one, in a tuple of strings"
        )


def has_images_of_the_size_asked_for(trial: DatasetTrial) -> None:
    """uint8 RGB of shape (n, 3, size, size)."""
    for size in (SIZE, 2 * SIZE):
        images = trial.load(size).images
        shape = (*images.shape[:1], 3, size, size)
        if images.dtype != np.uint8 or images.shape != shape or not len(images):
            raise FindingError(
                f"{trial} has images of shape {images.shape} and {images.dtype} where {size} px "
                f"were asked for; return uint8 of shape (n, 3, {size}, {size}), n > 0"
            )


def has_attributes_of_every_individual(trial: DatasetTrial) -> None:
    """Booleans of shape (n,), and an integer for each identity."""
    individuals = trial.individuals
    count = len(individuals.images)
    for name, values in individuals.attributes.items():
        if values.dtype != np.bool_ or values.shape != (count,):
            raise FindingError(
                f"{trial} has attribute {name!r} of shape {values.shape} and {values.dtype}; "
                f"return booleans of shape ({count},)"
            )
    identities = individuals.identities
    if identities.dtype != np.int64 or identities.shape != (count,):
        raise FindingError(
            f"{trial} has identities of shape {identities.shape} and {identities.dtype}; return "
            f"int64 of shape ({count},), equal numbers for the same person or object"
        )


def has_a_property_that_can_be_asked_about(trial: DatasetTrial) -> None:
    """At least one of its properties is present in some individuals and absent in others."""
    found = trial.individuals.attributes
    both = [
        name
        for name in trial.plugin.properties
        if name in found and found[name].any() and not found[name].all()
    ]
    if not both:
        raise FindingError(
            f"{trial} has no property of {', '.join(trial.plugin.properties)} that some of its "
            f"individuals have and others do not; label one"
        )


def has_main_tasks_of_its_attributes(trial: DatasetTrial) -> None:
    """Each of its main tasks can be asked for."""
    for name, task in trial.dataset.main_tasks().items():
        for attribute in task_attributes(task):
            if attribute not in trial.individuals.attributes:
                raise FindingError(
                    f"{trial} has a main task {name!r} of an attribute {attribute!r} that it "
                    f"lacks; return that attribute too, or leave the task out"
                )


def names_the_attributes_that_it_loads(trial: DatasetTrial) -> None:
    """Where it names attributes without loading images, they are those that it loads."""
    loaded = tuple(trial.individuals.attributes)
    named = trial.dataset.attribute_names(trial.data_root)
    if named is not None and named != loaded:
        differing = sorted({*named} ^ {*loaded}) or ["their order"]
        raise FindingError(
            f"{trial} names other attributes than it loads, the first difference being "
            f"{differing[0]}; return from `attribute_names` what `load` gives, or None"
        )


def can_be_divided(trial: DatasetTrial) -> None:
    """It has enough individuals for clients, D_aux and victims."""
    tasks = trial.dataset.main_tasks()
    split_individuals(trial.individuals, next(iter(tasks.values()), "identity"), 2, 0.45, 0.15, 0)


def loads_the_same_twice(trial: DatasetTrial) -> None:
    """Images, labels and fingerprint are equal, whatever the global generators."""
    with seeded(1):
        first = trial.load()
    with seeded(2):
        again = trial.load()
    equal = {
        "images": np.array_equal(first.images, again.images),
        "identities": np.array_equal(first.identities, again.identities),
        "attributes": list(first.attributes) == list(again.attributes)
        and all(np.array_equal(first.attributes[n], again.attributes[n]) for n in first.attributes),
        "fingerprint": first.fingerprint == again.fingerprint,
    }
    for what, is_equal in equal.items():
        if not is_equal:
            raise FindingError(
                f"{trial} has other {what} when it is loaded again; let nothing depend on time, "
                f"order of files or a global generator"
            )


def has_a_fingerprint(trial: DatasetTrial) -> None:
    """A record names the measured data by it."""
    fingerprint = trial.individuals.fingerprint
    if not isinstance(fingerprint, str) or not fingerprint:
        raise FindingError(
            f"{trial} has fingerprint {fingerprint!r}; return a string that changes with its "
            f"content, such as `leakbench.base.seeds.digest` of labels and files"
        )


def leaves_global_generators_alone(trial: DatasetTrial) -> None:
    """Random numbers elsewhere do not depend on which data were loaded."""
    before = fingerprints()
    trial.load()
    refuse_moved(trial, before, "`np.random.default_rng(SEED)`")


def refuses_an_empty_folder_in_one_sentence(trial: DatasetTrial) -> None:
    """The error names the file that is missing."""
    if trial.dataset.folder is None:
        raise NotCheckedError("it is embedded")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / trial.dataset.folder).mkdir(parents=True)
        try:
            trial.dataset.load(Path(folder), SIZE)
        except UsageError:
            return
        except Exception as error:
            raise FindingError(
                f"{trial} raises {type(error).__name__} where its folder is empty; raise a "
                f"`UsageError` that names the missing file"
            ) from error
    raise FindingError(
        f"{trial} loads an empty folder; raise a `UsageError` that names what is missing"
    )


DATASET_CHECKS = (
    *DECLARATIONS,
    *checks(
        describes_itself,
        has_images_of_the_size_asked_for,
        has_attributes_of_every_individual,
        has_a_property_that_can_be_asked_about,
        has_main_tasks_of_its_attributes,
        names_the_attributes_that_it_loads,
        can_be_divided,
        loads_the_same_twice,
        has_a_fingerprint,
        leaves_global_generators_alone,
        refuses_an_empty_folder_in_one_sentence,
    ),
)
