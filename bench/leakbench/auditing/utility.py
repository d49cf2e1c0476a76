"""The utility cost of a defense: the accuracy that a model trained under it loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leakbench.auditing.case import Case
from leakbench.auditing.client_defense import NO_DEFENSE, build_defense, combined_defense
from leakbench.auditing.training import FederatedTraining, Training
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import seed_for
from leakbench.federation.defense import Defense
from leakbench.metrics import estimates as metrics
from leakbench.metrics.estimates import Estimate


@dataclass(frozen=True)
class Utility:
    """The accuracy of a model trained under a defense.

    Attributes:
        accuracy: on held-out images; None where it was not measured.
        cost: accuracy without the defense less that; None where it was not measured.
        epsilon, delta: of that training, if it has any and the accountant is installed.
        not_measured: why there is no accuracy; empty if there is.
    """

    accuracy: Estimate | None = None
    cost: Estimate | None = None
    epsilon: float | None = None
    delta: float | None = None
    not_measured: str = ""


UtilityOf = Callable[[PluginSpec], Utility]
"""Measures the utility under a defense."""


def utility_measure(
    case: Case,
    training: Training | FederatedTraining | None,
    on_status: Callable[[str], None],
) -> UtilityOf:
    """Return what measures the utility under a defense.

    The training without a further defense runs at once. A training that fails is no error: the
    utility then says why it was not measured.
    """
    if training is None:
        return _never("no training data, and no function that trains")
    try:
        run = training.of(case.model) if isinstance(training, FederatedTraining) else training
    except UsageError as error:
        return _never(str(error))
    on_status("training without a further defense")
    try:
        reference = run(_training_defense(case, NO_DEFENSE, training))
    except Exception as error:
        return _never(_failure("without a defense", error))

    def measured(spec: PluginSpec) -> Utility:
        if spec != NO_DEFENSE:
            on_status(f"training under {spec.name}")
        try:
            defense = _training_defense(case, spec, training)
            hits = reference if spec == NO_DEFENSE else run(defense)
            return _utility(case, spec, training, defense, hits, reference)
        except Exception as error:
            return _not_measured(_failure(f"under {spec.name}", error))

    return measured


def _never(why: str) -> UtilityOf:
    return lambda _: _not_measured(why)


def _not_measured(why: str) -> Utility:
    return Utility(not_measured=f"utility was not measured: {why}")


def _failure(where: str, error: Exception) -> str:
    message = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
    return f"the training {where} failed: {message}"


def _training_defense(
    case: Case, spec: PluginSpec, training: Training | FederatedTraining
) -> Defense | None:
    """Return the defense of a training; a function of the user's adds what its clients do.

    Raises:
        UsageError: clients do not all do the same.
    """
    if isinstance(training, FederatedTraining):
        own = case.known_batches[0].defense
        if any(batch.defense != own for batch in case.known_batches):
            raise UsageError("clients do not all compute their updates in the same way")
        spec = combined_defense(own, spec)
    return None if spec == NO_DEFENSE else build_defense(spec).client_part()


def _utility(
    case: Case,
    spec: PluginSpec,
    training: Training | FederatedTraining,
    defense: Defense | None,
    hits: Sequence[bool],
    reference: Sequence[bool],
) -> Utility:
    """Return the accuracy of a training, and its cost against that without a defense.

    Args:
        hits, reference: whether each test image is classified correctly, with the defense and
            without.

    Raises:
        UsageError: a training function tests no images or different ones, or returns something
            other than True and False.
    """
    if len(hits) != len(reference):
        raise UsageError(
            f"the training function tests {len(reference)} images without a defense and "
            f"{len(hits)} under {spec.name!r}; test the same ones"
        )
    if not hits or not all(hit in (False, True) for hit in hits):
        raise UsageError("it must return True or False for each of at least one image")
    seed = seed_for("bootstrap", case.threat.seed) % 2**32
    own, without = (np.array(each, dtype=np.float64) for each in (hits, reference))
    each_image = [np.arange(len(own))]
    privacy = None
    if isinstance(training, FederatedTraining) and defense is not None:
        privacy = training.privacy(defense)
    epsilon, delta = (None, None) if privacy is None else privacy
    return Utility(
        accuracy=metrics.estimate_mean(own, each_image, seed),
        cost=metrics.estimate_mean(without - own, each_image, seed),
        epsilon=epsilon,
        delta=delta,
    )
