"""Describe what a data set holds and whether it is usable: `leakbench datasets check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.split import IDENTITY_TASK, task_attributes
from leakbench.evaluation.loading import load_individuals
from leakbench.experiments.cell import Setup
from leakbench.experiments.overrides import parameters_from

PREFIX = "dataset."

MOST_PAIRS = 20
"""Near-duplicates across identities that are listed."""


def checked(name: str, settings: Sequence[str], data_root: Path | None) -> str:
    """Load a data set, decode every image, and return a description.

    Args:
        name: a registered data set.
        settings: `dataset.PARAMETER=VALUE` each.
        data_root: folder in which the data sets lie.

    Raises:
        UsageError: the data set cannot be used: missing, malformed, or no property that some
            individuals have and others not.
    """
    dataset: DataSet = build(DATASETS, name, _parameters(settings))
    setup = Setup(
        dataset=name,
        dataset_parameters=parameters_of(dataset),
        properties=dataset.properties,
        main_task=IDENTITY_TASK,
    )
    individuals = load_individuals(setup, data_root)
    usable = [p for p in dataset.properties if _has_both(individuals, p)]
    if not usable:
        raise UsageError(
            f"data set {name!r} is not usable: no property of {', '.join(dataset.properties)} is "
            f"both present and absent among its {len(individuals)} individuals; get more images"
        )
    facts = [
        ("folder", "(embedded)" if dataset.folder is None else f"{data_root}/{dataset.folder}"),
        *((f"{PREFIX}{key}", value) for key, value in parameters_of(dataset).items()),
        ("individuals", f"{len(individuals):,} (whole: {dataset.size})"),
        ("identities", _identities(individuals)),
        *(("same photo", line) for line in near_duplicate_lines(individuals)),
        *(("left out", f"{number:,} {why}") for why, number in individuals.left_out.items()),
        ("terms", dataset.terms),
        ("fingerprint", f"{individuals.fingerprint} at {setup.image_size} pixels"),
    ]
    return "\n\n".join(
        [
            f"data set {name}: usable for {', '.join(usable)}",
            tabulate(facts, tablefmt="plain", disable_numparse=True),
            _balance(individuals, dataset.properties),
            _main_tasks(individuals, dataset.main_tasks()),
        ]
    )


def _parameters(settings: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that `dataset.PARAMETER=VALUE` settings give."""
    for setting in settings:
        if not setting.startswith(PREFIX) or "=" not in setting:
            raise UsageError(f"--set {setting!r} is not of the form dataset.PARAMETER=VALUE")
    return parameters_from([setting.removeprefix(PREFIX) for setting in settings])


def _has_both(individuals: Individuals, name: str) -> bool:
    values = individuals.attributes.get(name)
    return values is not None and bool(values.any()) and not bool(values.all())


def _identities(individuals: Individuals) -> str:
    _, images = np.unique(individuals.identities, return_counts=True)
    if images.max() == 1:
        return f"{len(images):,}, one image each"
    return (
        f"{len(images):,}, {images.min()} to {images.max()} images each "
        f"(median {np.median(images):g})"
    )


def near_duplicate_lines(individuals: Individuals) -> list[str]:
    """Return a line for each pair across identities, and one for those within."""
    pairs = individuals.near_duplicates
    one, other = individuals.identities[pairs].T
    across = pairs[one != other]

    def shown(row: int) -> str:
        name = f" ({individuals.names[row]})" if individuals.names else ""
        return f"{row}{name} of identity {individuals.identities[row]}"

    lines = [f"row {shown(a)} and row {shown(b)}" for a, b in across[:MOST_PAIRS].tolist()]
    if len(across) > MOST_PAIRS:
        lines.append(f"and {len(across) - MOST_PAIRS:,} more pairs across identities")
    if within := len(pairs) - len(across):
        lines.append(f"{within:,} {'pair' if within == 1 else 'pairs'} within an identity")
    return lines or ["no two images"]


def _balance(individuals: Individuals, properties: Sequence[str]) -> str:
    rows = []
    for name in properties:
        values = individuals.attributes.get(name)
        if values is None:
            rows.append([name, "", "", "missing: not labelled with these parameters"])
            continue
        note = "" if _has_both(individuals, name) else "one value only: cannot be asked about"
        share = f"{100 * values.mean():.1f} %"
        rows.append([name, f"{values.sum():,}", f"{(~values).sum():,}", note or share])
    return tabulate(rows, ["property", "present", "absent", "share present"], disable_numparse=True)


def _main_tasks(individuals: Individuals, tasks: Mapping[str, str]) -> str:
    if not tasks:
        return "no main task of its own: name one with --set main_task=ATTRIBUTE"
    rows = []
    for name, task in tasks.items():
        attributes = task_attributes(task)
        missing = [each for each in attributes if each not in individuals.attributes]
        if missing:
            rows.append([name, task, f"missing: {', '.join(missing)}"])
            continue
        table = np.stack([individuals.attributes[each] for each in attributes], axis=1)
        _, counts = np.unique(table, axis=0, return_counts=True)
        most = 100 * counts.max() / len(individuals)
        rows.append([name, task, f"{len(counts)} occur, the most frequent {most:.1f} %"])
    return tabulate(rows, ["main task", "attributes", "classes"], disable_numparse=True)
