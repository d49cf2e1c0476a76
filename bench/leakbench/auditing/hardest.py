"""Hard cases beside the average: the individuals on whom the model errs most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from leakbench.auditing.case import Case
from leakbench.auditing.exposure import ExposedIndividual
from leakbench.auditing.report_parts import AuditedUpdate, ReportPart
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import in_mode


class HardestIndividuals(ReportPart):
    """The individuals on whom the model errs most, beside the others whose truth is known.

    An individual's error is ‖∂ℓ / ∂z‖, of the main task's loss ℓ and the logits z: the larger it
    is, the larger is the individual's part of the gradient. No attack's answer is used to choose
    them.

    Attributes:
        names: of the individuals, with their updates, the largest error first.
        others: how many others there are.
        exposed, others_exposed: of how many something is read.
        exact, others_exact: of how many the exact deep feature is found.
    """

    names: list[str]
    others: int
    exposed: int
    others_exposed: int
    exact: int
    others_exact: int

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.names)


def check_hardest(count: int, case: Case) -> None:
    """Refuse a number that leaves no others to compare with.

    Raises:
        UsageError: it does, or no truth is known.
    """
    if count and not case.known_batches:
        raise UsageError(
            f"hardest is {count}, but there is no truth, which says on whom the model errs; give "
            f"truth"
        )
    known = sum(batch.size for batch in case.known_batches)
    if not 0 <= count < max(known, 1):
        raise UsageError(
            f"hardest is {count}; give at least 1, and less than the {known} individuals whose "
            f"truth is known"
        )


def hardest_rows(case: Case, count: int) -> NDArray[np.int64]:
    """Return the rows with the largest errors, the largest first, shape (count,).

    Rows are those of the batches whose truth is known, one after another.
    """
    if not count:
        return np.empty(0, np.int64)
    model, loss = in_mode(case.model, case.threat.mode), case.model.loss
    errors = []
    for batch in case.known_batches:
        with torch.no_grad():
            logits = model.classifier(batch.truth.features).double().cpu()
        targets = loss.targets(case.model.classes)[batch.truth.labels.cpu()]
        errors.append(loss.errors(logits, targets).norm(dim=1))
    return np.argsort(-torch.cat(errors).numpy(), kind="stable")[:count]


def hardest_individuals(
    rows: Sequence[int],
    updates: Sequence[AuditedUpdate],
    exposed: Sequence[ExposedIndividual],
) -> HardestIndividuals:
    """Return the individuals of these rows beside the others.

    Args:
        rows: as `hardest_rows` returns them.
        exposed: individuals of whom something is read.
    """
    known = [(u.name, each.name) for u in updates if u.truth_known for each in u.individuals]
    hard = {known[row] for row in rows}
    read = [(each.update, each.name) for each in exposed]
    exact = [(e.update, e.name) for e in exposed if e.certified_by or e.exact_by]
    others = set(known) - hard
    return HardestIndividuals(
        names=[f"{name} of update {update}" for update, name in (known[row] for row in rows)],
        others=len(known) - len(rows),
        exposed=sum(each in hard for each in read),
        others_exposed=sum(each in others for each in read),
        exact=sum(each in hard for each in exact),
        others_exact=sum(each in others for each in exact),
    )


def hardest_text(hardest: HardestIndividuals) -> str:
    """Return who is exposed among them as a sentence, which names nobody."""
    return (
        f"Of the {hardest.count} individuals on whom the model errs most, {hardest.exposed} are "
        f"exposed, {hardest.exact} by an exact feature; of the {hardest.others} others "
        f"{hardest.others_exposed} are, {hardest.others_exact} by an exact feature."
    )
