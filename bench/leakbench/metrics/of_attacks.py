"""Metrics of an attack on a cell: features, claims, membership, images and labels."""

from __future__ import annotations

import math

import numpy as np

from leakbench.metrics.classification import auc, tpr_at_fpr
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.image_metrics import PERFECT, RECOGNISABLE
from leakbench.metrics.scored import ScoredCell
from leakbench.metrics.spec import (
    BY_CANDIDATE,
    BY_INDIVIDUAL,
    NON_NEGATIVE,
    SIGNED,
    MetricSpec,
)

EXACT = 0.99
"""Standardised cosine from which a reconstructed feature counts as the individual's own."""

CERTIFIED = 0.9999
"""Standardised cosine below which a certified feature is a false certificate."""

FALSE_POSITIVE_RATE = 0.01
"""At which the true positive rate of membership inference is reported."""


def _mean_cosine(scored: ScoredCell) -> Estimate | None:
    return None if scored.cosines is None else scored.individuals.mean(scored.cosines)


def _exact(scored: ScoredCell) -> Estimate | None:
    if scored.cosines is None:
        return None
    return scored.individuals.mean((scored.cosines >= EXACT).astype(np.float64))


def _mean_swapped_cosine(scored: ScoredCell) -> Estimate | None:
    if scored.swapped_cosines is None:
        return None
    return scored.individuals.mean(scored.swapped_cosines)


def _certified(scored: ScoredCell) -> float | None:
    return None if scored.certified is None else float(scored.certified.mean())


def _certified_falsely(scored: ScoredCell) -> int | None:
    if scored.certified is None or scored.cosines is None:
        return None
    return int((scored.cosines[scored.certified] < CERTIFIED).sum())


def _claimed(scored: ScoredCell) -> float | None:
    return None if scored.claimed is None else float(scored.claimed.mean())


def _claimed_rightly(scored: ScoredCell) -> float | None:
    if scored.claimed is None or scored.cosines is None or not scored.claimed.any():
        return None
    return float((scored.cosines[scored.claimed] >= EXACT).mean())


def _membership_auc(scored: ScoredCell) -> Estimate | None:
    return None if scored.membership is None else scored.membership.estimate(auc)


def _membership_tpr(scored: ScoredCell) -> Estimate | None:
    if scored.membership is None:
        return None
    return scored.membership.estimate(tpr_at_fpr(FALSE_POSITIVE_RATE))


def _mean_image_metric(scored: ScoredCell, name: str) -> Estimate | None:
    if scored.images is None or name not in scored.images:
        return None
    return scored.individuals.mean(scored.images[name])


def _recognisable(scored: ScoredCell) -> Estimate | None:
    if scored.images is None:
        return None
    return scored.individuals.mean((scored.images["psnr"] >= RECOGNISABLE).astype(np.float64))


def _label_accuracy(scored: ScoredCell) -> float | None:
    return None if scored.label_shares is None else float(np.mean(scored.label_shares))


FEATURE_COSINE = MetricSpec(
    name="feature_cosine",
    path="feature_cosine",
    title="feature cosine",
    description=(
        "cosine between reconstructed and true features, standardised by D_aux's mean and "
        "deviation, after matching; mean"
    ),
    form=".3f",
    range=SIGNED,
    better="higher",
    interval=BY_INDIVIDUAL,
    in_cell_tables=True,
    of_cell=_mean_cosine,
)

SWAPPED_COSINE = MetricSpec(
    name="swapped_cosine",
    path="swapped_cosine",
    title="swapped cosine",
    description=(
        "the same for the attack's own features of individuals of other batches with the same "
        "labels: what a feature cosine has to be compared with"
    ),
    form=".3f",
    range=SIGNED,
    interval=BY_INDIVIDUAL,
    optional="later",
    in_cell_tables=True,
    of_cell=_mean_swapped_cosine,
)

EXACT_SHARE = MetricSpec(
    name="exact",
    path="exact",
    title="exact",
    description=f"share of individuals whose standardised feature has a cosine ≥ {EXACT}",
    unit="%",
    better="higher",
    interval=BY_INDIVIDUAL,
    counted="individuals",
    in_cell_tables=True,
    of_cell=_exact,
)

CERTIFIED_SHARE = MetricSpec(
    name="certified",
    path="certificates.share",
    title="certified",
    description="share of individuals whose features the attack claims to have exactly",
    unit="%",
    better="higher",
    counted="individuals",
    in_cell_tables=True,
    of_cell=_certified,
)

CERTIFIED_FALSELY = MetricSpec(
    name="certified_falsely",
    path="certificates.false",
    title="certified falsely",
    description=f"number of certified features with a standardised cosine < {CERTIFIED}",
    form=".0f",
    range=NON_NEGATIVE,
    better="lower",
    of_cell=_certified_falsely,
)

CLAIMED_SHARE = MetricSpec(
    name="claimed",
    path="claimed.share",
    title="claimed",
    description=(
        "share of individuals whose features the attack takes for exact, certified or not; of the "
        "others it only guesses"
    ),
    unit="%",
    better="higher",
    counted="individuals",
    optional="later",
    of_cell=_claimed,
)

CLAIMED_RIGHTLY = MetricSpec(
    name="claimed_rightly",
    path="claimed.right",
    title="claimed rightly",
    description=f"share of these whose standardised feature has a cosine ≥ {EXACT}: the precision",
    unit="%",
    better="higher",
    optional="later",
    of_cell=_claimed_rightly,
)

MEMBERSHIP_AUC = MetricSpec(
    name="membership_auc",
    path="membership.auc",
    title="membership AUC",
    description="area under the ROC curve of candidates' scores; chance is 50 %",
    unit="%",
    better="higher",
    interval=BY_CANDIDATE,
    in_cell_tables=True,
    of_cell=_membership_auc,
)

MEMBERSHIP_TPR = MetricSpec(
    name="membership_found",
    path="membership.true_positive_rate",
    title=f"membership TPR @ {FALSE_POSITIVE_RATE:.0%} FPR",
    description=f"true positive rate at a false positive rate of {FALSE_POSITIVE_RATE:.0%}",
    unit="%",
    better="higher",
    interval=BY_CANDIDATE,
    of_cell=_membership_tpr,
)

PSNR = MetricSpec(
    name="psnr",
    path="images.psnr",
    title="PSNR",
    description=f"peak signal-to-noise ratio, at most {PERFECT:.0f} dB an image; mean",
    unit="dB",
    range=(-math.inf, PERFECT),
    better="higher",
    interval=BY_INDIVIDUAL,
    in_cell_tables=True,
    of_cell=lambda scored: _mean_image_metric(scored, "psnr"),
)

SSIM = MetricSpec(
    name="ssim",
    path="images.ssim",
    title="SSIM",
    description="structural similarity, mean",
    form=".3f",
    range=SIGNED,
    better="higher",
    interval=BY_INDIVIDUAL,
    of_cell=lambda scored: _mean_image_metric(scored, "ssim"),
)

LPIPS = MetricSpec(
    name="lpips",
    path="images.lpips",
    title="LPIPS",
    description="learned perceptual distance on AlexNet, mean; 0 is equal",
    form=".3f",
    range=NON_NEGATIVE,
    better="lower",
    interval=BY_INDIVIDUAL,
    optional="extra",
    of_cell=lambda scored: _mean_image_metric(scored, "lpips"),
)

RECOGNISABLE_SHARE = MetricSpec(
    name="recognisable",
    path="images.recognisable",
    title=f"≥ {RECOGNISABLE:.0f} dB",
    description=f"share of individuals whose image has a PSNR ≥ {RECOGNISABLE:.0f} dB",
    unit="%",
    better="higher",
    interval=BY_INDIVIDUAL,
    counted="individuals",
    of_cell=_recognisable,
)

LABEL_ACCURACY = MetricSpec(
    name="label_accuracy",
    path="label_accuracy",
    title="labels right",
    description="share of a batch's labels that the attack inferred, as a multiset; mean",
    unit="%",
    better="higher",
    counted="individuals",
    of_cell=_label_accuracy,
)

DIVERGED = MetricSpec(
    name="diverged",
    path="diverged",
    title="diverged",
    description="share of batches on which the attack reports failure",
    unit="%",
    form=".0f",
    better="lower",
    counted="updates",
    in_cell_tables=True,
    hides_zero=True,
    of_cell=lambda scored: float(np.mean(scored.diverged)),
)

ATTACK_METRICS = (
    FEATURE_COSINE,
    SWAPPED_COSINE,
    EXACT_SHARE,
    CERTIFIED_SHARE,
    CERTIFIED_FALSELY,
    CLAIMED_SHARE,
    CLAIMED_RIGHTLY,
    MEMBERSHIP_AUC,
    MEMBERSHIP_TPR,
    PSNR,
    SSIM,
    LPIPS,
    RECOGNISABLE_SHARE,
    LABEL_ACCURACY,
    DIVERGED,
)
"""In the order in which tables have them."""
