"""Checks of defenses by themselves; `defended` checks attacks under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leakbench.base.registry import DEFENSES, Registry
from leakbench.conformance.check import FindingError, Trial, checks
from leakbench.conformance.clients import client
from leakbench.conformance.declarations import DECLARATIONS, refuse_empty
from leakbench.conformance.global_state import fingerprints, refuse_moved, seeded
from leakbench.conformance.setting import prepared_with
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import model_for_utility
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense, Stage

INDIVIDUALS = 4
"""Batch size of the client in most checks."""


@dataclass(frozen=True)
class DefenseTrial(Trial):
    """A defense and the device of its client.

    Attributes:
        device: where the client computes.
    """

    registry: Registry = field(default=DEFENSES, init=False)
    device: str = "cpu"

    @property
    def defense(self) -> Defense:
        """The defense with the parameters of its example."""
        return self.built  # type: ignore[no-any-return]

    def client(self, individuals: int = INDIVIDUALS, seed: int = 0) -> Client:
        """Return a client on the device; always the same."""
        made = client(individuals, seed)
        return replace(
            made,
            model=made.model.to(self.device),
            images=made.images.to(self.device),
            labels=made.labels.to(self.device),
        )

    def update(self, of: Client) -> Update:
        """Return what a client sends under the defense."""
        return self.defense.protect(gradient)(of)


def has_a_reference_and_a_stage(trial: DefenseTrial) -> None:
    """A reader needs the publication, a composition the order of its defenses."""
    refuse_empty(trial, "reference")
    if not isinstance(trial.plugin.stage, Stage):
        raise FindingError(
            f"{trial} has stage {trial.plugin.stage!r}; name one of `Stage`, where it comes in"
        )


def sends_the_same_for_the_same_generator(trial: DefenseTrial) -> None:
    """A client takes all its random numbers from its generator."""
    with seeded(1):
        first = trial.update(trial.client(seed=5))
    with seeded(2):
        again = trial.update(trial.client(seed=5))
    if list(first) != list(again) or any(not torch.equal(first[n], again[n]) for n in first):
        raise FindingError(
            f"{trial} sends another update for the same client; draw from `client.generator` and "
            f"from nothing else"
        )


def leaves_global_generators_alone(trial: DefenseTrial) -> None:
    """Random numbers elsewhere do not depend on the defense."""
    of, before = trial.client(), fingerprints()
    trial.update(of)
    refuse_moved(trial, before, "`client.generator`")


def sends_something_for_every_parameter(trial: DefenseTrial) -> None:
    """An update has the parameters' names, order, shapes and types, and is finite."""
    for individuals in (2, 6):
        of = trial.client(individuals)
        update = trial.update(of)
        names = [name for name, _ in of.model.named_parameters()]
        if list(update) != names:
            raise FindingError(
                f"{trial} sends {', '.join(update) or 'nothing'} in place of "
                f"{', '.join(names)}; send something for every parameter, in the model's order"
            )
        for name, weights in of.model.named_parameters():
            _check_entry(trial, name, update[name], weights)


def _check_entry(trial: DefenseTrial, name: str, value: Tensor, weights: Tensor) -> None:
    if value.shape != weights.shape or value.dtype != weights.dtype:
        raise FindingError(
            f"{trial} sends {name} of shape {tuple(value.shape)} and {value.dtype}, and the "
            f"parameter has {tuple(weights.shape)} and {weights.dtype}; keep both"
        )
    if value.device != weights.device:
        raise FindingError(
            f"{trial} sends {name} from {value.device}, and the client computes on "
            f"{weights.device}; put what is drawn on the CPU `.to(value.device)`"
        )
    if value.requires_grad:
        raise FindingError(f"{trial} sends {name} with its graph; return it `.detach()`ed")
    if not bool(value.isfinite().all()):
        raise FindingError(f"{trial} sends NaN or infinity in {name}; look for a division by zero")


def leaves_the_client_as_it_was(trial: DefenseTrial) -> None:
    """Model, images and labels are read only; no hook stays."""
    of, before = trial.client(), trial.client()
    trial.update(of)
    parameters = list(zip(of.model.parameters(), before.model.parameters(), strict=True))
    kept = {
        "the images": torch.equal(of.images, before.images),
        "the labels": torch.equal(of.labels, before.labels),
        "the model's mode": not of.model.training,
        "the model's weights": all(torch.equal(ours, theirs) for ours, theirs in parameters),
        "a weight's `grad`": all(ours.grad is None for ours, _ in parameters),
        "which weights require gradients": all(
            ours.requires_grad == theirs.requires_grad for ours, theirs in parameters
        ),
        "the model's hooks": not any(m._forward_hooks for m in of.model.modules()),
    }
    for what, is_kept in kept.items():
        if not is_kept:
            raise FindingError(
                f"{trial} changes {what} of the client; work on copies, and remove hooks at the end"
            )


def lets_a_model_be_trained(trial: DefenseTrial) -> None:
    """Utility is measured on a model trained under the part that one client does."""
    own = trial.defense.client_part()
    if own is None:
        return
    if own.clients != 1:
        raise FindingError(
            f"{trial} says that one client by itself is {own.clients}; return from "
            f"`client_part` the part that a client does alone, or None"
        )
    context = prepared_with({}, trial.device)
    model = model_for_utility(context.setup, own, context, lambda _: None)
    if not all(bool(weight.isfinite().all()) for weight in model.state_dict().values()):
        raise FindingError(
            f"{trial} trains a model to NaN or infinity in a few rounds; weaken its "
            f"`example_parameters` if they are too strong to train with"
        )


def has_reliabilities_from_0_to_1(trial: DefenseTrial) -> None:
    """`reliability` weighs the entries of an update by factors from 0 to 1."""
    update = trial.update(trial.client())
    for name, factor in trial.defense.reliability(update, INDIVIDUALS).items():
        fits = name in update and _broadcasts(factor, update[name])
        if not fits or bool(((factor < 0) | (factor > 1) | factor.isnan()).any()):
            raise FindingError(
                f"{trial} has a reliability of {name} that is no factor for it; return numbers "
                f"in [0, 1] of as many axes as the parameter has, which broadcast to its shape"
            )


def _broadcasts(factor: Tensor, value: Tensor) -> bool:
    axes = zip(factor.shape, value.shape, strict=False)
    return factor.ndim == value.ndim and all(a in (1, b) for a, b in axes)


def has_surrogates_that_do_not_mix_runs(trial: DefenseTrial) -> None:
    """The surrogate of several runs is that of each run alone."""
    for of in ("surrogate", "surrogate_of_individuals"):
        surrogate, runs = getattr(trial.defense, of), _runs(trial)
        together = surrogate(runs)
        for run in range(2):
            alone = surrogate({name: value[run : run + 1] for name, value in runs.items()})
            for name, value in alone.items():
                if not torch.allclose(value[0], together[name][run], rtol=1.3e-6, atol=1e-5):
                    raise FindingError(
                        f"{trial} has a `{of}` that mixes runs (in {name}); compute along all axes "
                        f"but the first"
                    )


def has_surrogates_that_can_be_differentiated(trial: DefenseTrial) -> None:
    """An adaptive attack follows their gradients."""
    for of in ("surrogate", "surrogate_of_individuals"):
        runs = _runs(trial)
        total = torch.stack(
            [value.square().sum() for value in getattr(trial.defense, of)(runs).values()]
        ).sum()
        slopes = (
            torch.autograd.grad(total, list(runs.values()), allow_unused=True)
            if total.requires_grad
            else [None]
        )
        if any(slope is None or not bool(slope.isfinite().all()) for slope in slopes):
            raise FindingError(
                f"{trial} has a `{of}` without finite gradients; make it of differentiable "
                f"functions, and keep square roots and divisions away from zero"
            )


def _runs(trial: DefenseTrial) -> Mapping[str, Tensor]:
    """Return the gradients of two runs, shape (2, *parameter's)."""
    updates = [gradient(trial.client(individuals)) for individuals in (2, 3)]
    return {name: torch.stack([u[name] for u in updates]).requires_grad_() for name in updates[0]}


def protects_victims_of_a_trained_model(trial: DefenseTrial) -> None:
    """It sends finite numbers for the trained model and real victims too."""
    context = prepared_with({}, trial.device)
    assert context.server.model is not None
    truth = victim_batches(context, INDIVIDUALS, INDIVIDUALS)[0]
    of = replace(
        client(INDIVIDUALS),
        model=context.server.model,
        images=truth.images,
        labels=truth.labels,
    )
    for name, value in trial.update(of).items():
        _check_entry(trial, name, value, dict(of.model.named_parameters())[name])


DEFENSE_CHECKS = (
    *DECLARATIONS,
    *checks(
        has_a_reference_and_a_stage,
        sends_the_same_for_the_same_generator,
        leaves_global_generators_alone,
        sends_something_for_every_parameter,
        leaves_the_client_as_it_was,
        lets_a_model_be_trained,
        has_reliabilities_from_0_to_1,
        has_surrogates_that_do_not_mix_runs,
        has_surrogates_that_can_be_differentiated,
        protects_victims_of_a_trained_model,
    ),
)
