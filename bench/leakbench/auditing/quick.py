"""A quick audit: what is left out so that it answers within two minutes."""

from __future__ import annotations

from dataclasses import replace

import torch

from leakbench.auditing.attacking import (
    attacks_of_ends,
    labels_of_attacks,
    reconstructs_images,
)
from leakbench.auditing.case import Case
from leakbench.auditing.labelled_images import LabelledImages
from leakbench.base.choices import PropertyModelKind
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import generator_for

UPDATES = 8
"""Updates that are audited, at most."""

INDIVIDUALS = 400
"""Individuals of D_aux, at most."""

SECONDS = 90.0
"""After which attacks end, from the beginning of the audit."""

PROPERTY_MODEL: PropertyModelKind = "logistic"
"""Others would be compared by cross-validation."""

SHORT_FALLBACK = {"fallback": "feature_direct", "budget": 20, "runs": 2, "attempts": 1}
SHORT_NEWTON = {"rounds": 20, "patience": 3}
SHORT_REFLECTIONS = {"reflections": 4000, "quiet": 500, "reflected_at_once": 64}
SHORT_BEFORE_THE_HEAD = {
    "convolution_demixing": {"volleys": 10, "reflections": 400, "quiet": 100},
    "token_demixing": {"rounds": 10, "patience": 3},
}
"""Searches of a tenth of their usual length; what is found at all is mostly found in it."""

LEFT_OUT = (
    f"This is a quick audit: exact attacks search for a tenth of their usual time, reconstruction "
    f"takes 20 gradients in place of 400, at most {UPDATES} updates and {INDIVIDUALS} individuals "
    f"of D_aux are used, with a {PROPERTY_MODEL} property model, no defense is tried unless named, "
    f"and attacks end after {SECONDS:g} s unless another limit is given. What it finds is found; "
    f"what it does not find may be found by an audit that is not quick."
)
"""Said among what was not tested."""


def quick_attacks(case: Case) -> list[PluginSpec]:
    """Return exact attacks with short searches, and one that matches gradients where it can."""
    labels = labels_of_attacks(case)
    short = {**SHORT_FALLBACK, "labels": labels}
    newton = {**SHORT_NEWTON, **short}
    found = [
        *(
            PluginSpec(name, {**SHORT_BEFORE_THE_HEAD[name], **short})
            for name in attacks_of_ends(case)
        ),
        PluginSpec("mask_demixing", {**SHORT_REFLECTIONS, **newton}),
        PluginSpec("newton_demixing", newton),
    ]
    if reconstructs_images(case):
        found.append(PluginSpec("feature_lbfgs", {"budget": 20, "labels": labels}))
    return found


def fewer_individuals(labelled: LabelledImages, seed: int) -> LabelledImages:
    """Return at most `INDIVIDUALS` random ones."""
    if len(labelled) <= INDIVIDUALS:
        return labelled
    order = torch.randperm(len(labelled), generator=generator_for("quick audit", seed))
    rows = order[:INDIVIDUALS].sort().values
    names = labelled.names
    return replace(
        labelled,
        images=labelled.images[rows],
        labels=None if labelled.labels is None else labelled.labels[rows],
        identities=None if labelled.identities is None else labelled.identities[rows],
        properties={name: present[rows] for name, present in labelled.properties.items()},
        names=None if names is None else [names[row] for row in rows.tolist()],
    )
