"""Whether D_aux and the truth fit the model and each other, and which properties they hold."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.auditing.labelled_images import (
    LabelledImages,
    check_disjoint_identities,
    check_labels_and_properties,
    check_property,
    check_varies,
    kind_of,
)
from leakbench.base.errors import UsageError


def checked_images(
    aux: LabelledImages, truth: LabelledImages | None, properties: Sequence[str], classes: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """Return D_aux and the truth with the properties to infer, once they fit together.

    Raises:
        UsageError: they do not fit the model or each other, or share an individual.
    """
    aux = check_labels_and_properties(aux, "D_aux", properties, classes)
    if truth is None:
        return aux, None
    truth = check_labels_and_properties(truth, "the truth", properties, classes)
    check_disjoint_identities(aux, truth, "D_aux")
    kinds = kind_of(truth.images), kind_of(aux.images)
    if kinds[0] != kinds[1] or truth.images.shape[1:] != aux.images.shape[1:]:
        raise UsageError(
            f"{kinds[0]} of the truth have shape {tuple(truth.images.shape[1:])}, {kinds[1]} of "
            f"D_aux {tuple(aux.images.shape[1:])}; give both the same shape"
        )
    return aux, truth


def inferable(
    properties: Sequence[str], aux: LabelledImages, truth: LabelledImages | None
) -> tuple[list[str], list[str]]:
    """Return the properties that can be inferred, and why the others cannot.

    Raises:
        UsageError: none can.
    """
    kept, left_out = [], []
    for name in properties:
        try:
            check_property(aux, "D_aux", name)
            check_varies(aux, "D_aux", name)
            if truth is not None:
                check_property(truth, "the truth", name)
            kept.append(name)
        except UsageError as error:
            left_out.append(str(error))
    if not kept:
        raise UsageError(left_out[0])
    return kept, left_out
