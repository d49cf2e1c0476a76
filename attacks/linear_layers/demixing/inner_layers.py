"""From a hidden layer back to those before it."""

from __future__ import annotations

from leakbench.attacks.linear_layers.demixing.gradient_space import space_of
from leakbench.attacks.linear_layers.demixing.masked_space import LEAST_UNIT
from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    none_recovered,
    recovered_from_columns,
)
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import Head


def recovered_at_first_layer(
    head: Head, batch: VictimBatch, individuals: RecoveredIndividuals
) -> RecoveredIndividuals:
    """Return the individuals with their features at the first layer, layer by layer.

    The output of the layer before and the x of the layer after are known, and so is its own x.

    Args:
        individuals: with their features at the last hidden layer.
    """
    for layers in range(len(head.layers) - 3, -1, -1):
        if not len(individuals):
            return none_recovered(head)
        here, following = head.after(layers), head.after(layers + 1)
        activation = here.first.activation
        assert activation is not None
        features = individuals.features
        targets = head.targets[individuals.labels]
        following_x = following.errors(following.first.forward(features), targets)
        # A unit is active where its output is positive, by more than rounding.
        output = features - INACTIVE * features.abs().mean(1, keepdim=True)
        x = (following_x @ following.first.weight) * activation.derivative(output)
        size = x.square().mean(0).sqrt()
        scale = 1 / size.clamp_min(LEAST_UNIT * size.median().clamp_min(size.max() * LEAST_UNIT))
        observed = batch.observed(here.first)
        if not observed.columns.all():
            return none_recovered(head)
        space = space_of(observed, batch.individuals, scale, batch.precision(here))
        individuals = recovered_from_columns(here, space, (x * space.scale).mT).in_order()
    return individuals


INACTIVE = 1e-4
"""Output of a unit, relative to the mean, below which it is inactive."""
