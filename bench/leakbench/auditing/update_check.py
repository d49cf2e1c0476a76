"""Whether captured updates are what the model computes from their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from leakbench.auditing.client_batches import Batch, Clients, KnownBatch
from leakbench.auditing.client_defense import NO_DEFENSE, build_defense
from leakbench.auditing.part_errors import error_text
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import generator_for
from leakbench.evaluation.defense_cost import distortion
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient

ROUNDING = 0.01
"""Relative distance up to which an update is that of its truth, apart from rounding."""

DRAWS = 3
"""Simulations of a client whose update is random: mini-batches in a random order, or noise."""

TOO_RANDOM = 0.5
"""Relative distance between two simulations from which on nothing can be told."""

HIDDEN = "the client's defense or mini-batches are so random that a difference would not show"

Outcome = Literal["agrees", "differs", "not checked"]


@dataclass(frozen=True)
class UpdateCheck:
    """What the comparison of a captured update with a simulated one says.

    Attributes:
        outcome: `differs` where it cannot be explained by rounding, or by the client's randomness.
        distance: ‖difference‖ / ‖simulated‖ from the nearest simulation; None without the truth.
        resolution: distances up to this one go unnoticed; None where nothing was compared.
        reason: why it differs where the truth is not known, or why it was not checked.
    """

    outcome: Outcome
    distance: float | None = None
    resolution: float | None = None
    reason: str = ""


def check_update(batch: Batch, clients: Clients) -> UpdateCheck | None:
    """Return whether a captured update is what the model computes; None if it was not captured."""
    if batch.update is None:
        return None
    if not isinstance(batch, KnownBatch):
        return _without_truth(batch, batch.update, clients)
    try:
        simulated = simulations(batch, clients, DRAWS)
    except Exception as error:  # A simulation that fails must not end the audit.
        return UpdateCheck("not checked", reason=f"it cannot be simulated ({error_text(error)})")
    distances = [distortion(batch.update, each) for each in simulated]
    spread = max((distortion(a, b) for a, b in combinations(simulated, 2)), default=0.0)
    resolution = ROUNDING + 2 * spread
    nearest = min(distances)
    if not nearest <= resolution:
        return UpdateCheck("differs", nearest, resolution)
    if spread > TOO_RANDOM:
        reason = (
            "the client's defense or mini-batches are so random that a difference would not show"
        )
        return UpdateCheck("not checked", nearest, resolution, reason)
    return UpdateCheck("agrees", nearest, resolution)


def simulations(batch: KnownBatch, clients: Clients, draws: int) -> list[Update]:
    """Return updates that a client computes from a batch; several where they are random."""
    compute = build_defense(batch.defense).protect(gradient)
    model = in_mode(clients.model, clients.threat.mode)
    return [
        compute(
            Client(
                model=model,
                images=batch.truth.images,
                labels=batch.truth.labels,
                learning_rate=batch.learning_rate,
                generator=generator_for("mismatch", number),
            )
        )
        for number in range(1 if _is_deterministic(batch.defense, batch.size) else draws)
    ]


def _is_deterministic(defense: PluginSpec, size: int) -> bool:
    """Whether the update is not random: no defense, or local steps on the whole batch."""
    whole_batch = (defense.parameters.get("batch") or size) >= size
    return defense == NO_DEFENSE or (defense.name == "local_steps" and whole_batch)


def _without_truth(batch: Batch, update: Update, clients: Clients) -> UpdateCheck:
    """Compare the output bias with what a mean cross-entropy can give, whatever the individuals.

    An individual's gradient is p − y there: its entries add up to 0, their magnitudes to at most 2.
    """
    unknown = UpdateCheck("not checked", reason="the truth is not known")
    local = _is_deterministic(batch.defense, batch.size) or batch.defense.name == "local_steps"
    if not (local and clients.model.has_output_bias and clients.model.loss.is_plain):
        return unknown
    bias = update[clients.model.output_bias].double()
    total, magnitude = float(bias.sum()), float(bias.abs().sum())
    most = 2.0 * _steps(batch.defense, batch.size)
    if abs(total) <= ROUNDING * magnitude and magnitude <= (1 + ROUNDING) * most:
        return unknown
    return UpdateCheck(
        "differs",
        reason=f"the entries of its output bias add up to {total:.2g} and their magnitudes to "
        f"{magnitude:.2g}, those of a mean cross-entropy to 0 and at most {most:g}",
    )


def _steps(defense: PluginSpec, size: int) -> int:
    epochs: int = defense.parameters.get("epochs", 1)
    return epochs * -(-size // (defense.parameters.get("batch") or size))


def differing(checks: Sequence[UpdateCheck | None]) -> bool:
    """Whether any captured update is not what the model computes."""
    return any(check is not None and check.outcome == "differs" for check in checks)
