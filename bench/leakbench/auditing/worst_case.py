"""The worst case beside the mean: the true positive rate at a false positive rate of 1 %.

Carlini et al. 2022 (Membership Inference Attacks From First Principles, IEEE S&P) give the reason:
an attack that is right about a few individuals, and knows of whom, hardly shows in a mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from leakbench.auditing.report_parts import ReportPart
from leakbench.auditing.sentences import percent
from leakbench.metrics.classification import tpr_at_fpr
from leakbench.metrics.estimates import Bootstrap, Estimate
from leakbench.metrics.of_attacks import FALSE_POSITIVE_RATE

LEAST_ABSENT = round(1 / FALSE_POSITIVE_RATE)
"""Individuals without a property from which on a single false positive is at most 1 % of them."""


class WorstCase(ReportPart):
    """How many individuals with a property an attack finds, at a false positive rate of 1 %.

    Attributes:
        subject: the property.
        present, absent: individuals with the property, and without it.
        attack: the title of the attack with the highest rate; empty where none is measured.
        rate: its true positive rate; the mean over its runs.
        control: the title of the baseline with the highest rate.
        baseline: that baseline's rate.
        compared: attacks of which this is the best.
        not_measured: why there is no rate; empty where there is.
        hardest: the individuals on whom the model errs most, of whom alone those with the property
            are counted; 0 where all are.
    """

    subject: str
    present: int
    absent: int
    attack: str = ""
    rate: Estimate | None = None
    control: str = ""
    baseline: Estimate | None = None
    compared: int = 0
    not_measured: str = ""
    hardest: int = 0


Scores = NDArray[np.float64]
"""P(yes) of n individuals in each run, shape (runs, n)."""


def worst_case(
    subject: str,
    present: NDArray[np.bool_],
    attacks: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    bootstrap: Bootstrap,
    hardest: NDArray[np.bool_] | None = None,
) -> WorstCase:
    """Return the attack with the highest true positive rate in a property.

    Args:
        present: the truth, shape (n,).
        attacks, baselines: by title.
        bootstrap: of the same n individuals.
        hardest: those of whom alone the ones with the property are counted, shape (n,); the
            threshold is that of all without it.
    """
    counted = np.ones(len(present), bool) if hardest is None else ~present | hardest
    counts = WorstCase(
        subject=subject,
        present=int((present & counted).sum()),
        absent=int((~present).sum()),
        hardest=0 if hardest is None else int(hardest.sum()),
    )
    why = _too_few(counts) or ("" if attacks else "no attack was run")
    if why:
        return counts.model_copy(update={"not_measured": why})
    title, rate = _highest(present, counted, attacks, bootstrap)
    found = {"attack": title, "rate": rate, "compared": len(attacks)}
    if baselines:
        control, baseline = _highest(present, counted, baselines, bootstrap)
        found |= {"control": control, "baseline": baseline}
    return counts.model_copy(update=found)


def _too_few(counts: WorstCase) -> str:
    if counts.absent < LEAST_ABSENT:
        return (
            f"that takes at least {LEAST_ABSENT} individuals without the property whose truth is "
            f"known, and there are {counts.absent}"
        )
    if counts.present:
        return ""
    whose = "of these has it" if counts.hardest else "whose truth is known has the property"
    return f"no individual {whose}"


def _highest(
    present: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    scores: Mapping[str, Scores],
    bootstrap: Bootstrap,
) -> tuple[str, Estimate]:
    metric = tpr_at_fpr(FALSE_POSITIVE_RATE)
    everybody = counted[None].astype(np.float64)
    title = max(scores, key=lambda each: float(metric(scores[each], present, everybody)[0]))
    best = scores[title]
    return title, bootstrap.estimate(lambda weights: metric(best, present, weights * counted))


def worst_case_text(case: WorstCase) -> str:
    """Return a worst case as a sentence.

    >>> worst_case_text(WorstCase(subject="smile", present=0, absent=200, not_measured="none has"))
    'smile: no true positive rate at 1 % false positives is given, since none has.'
    """
    share = f"{100 * FALSE_POSITIVE_RATE:g} % false positives"
    about = case.subject
    if case.hardest:
        about += f", of the {case.hardest} individuals on whom the model errs most"
    if case.rate is None:
        return f"{about}: no true positive rate at {share} is given, since {case.not_measured}."
    best = f" (the best of {case.compared} attacks, chosen afterwards: biased upwards)"
    text = (
        f"{about}: at {share} {case.attack} finds {percent(case.rate)} % of the "
        f"{case.present} individuals with the property{best if case.compared > 1 else ''}"
    )
    if case.baseline is None:
        return f"{text}; no baseline was measured."
    return f"{text}; the best baseline, {case.control}, {percent(case.baseline)} %."
