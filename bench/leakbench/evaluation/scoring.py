"""Scoring: an attack's answers against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from leakbench.base.seeds import seed_for
from leakbench.data.split import task_attributes
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.experiments.cell import Cell
from leakbench.metrics import estimates as metrics
from leakbench.metrics.image_metrics import RECOGNISABLE, lpips, lpips_network, psnr, ssim
from leakbench.metrics.matching import match_individuals
from leakbench.records.record import (
    Certificates,
    DefenseMetrics,
    ImageMetrics,
    Membership,
    Metrics,
    PropertyMetrics,
)
from leakbench.threat.attack import AttackResult
from leakbench.threat.candidates import Candidates
from leakbench.threat.observation import GroundTruth

EXACT = 0.99
"""Cosine from which a reconstructed feature counts as the individual's own."""

CERTIFIED = 0.9999
"""Cosine from which a feature that an attack claims to be exact is so."""


FALSE_POSITIVE_RATE = 0.01
"""Share of others who may be taken for members."""


def score(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    cell: Cell,
    context: EvaluationContext,
    lpips_weights: Path | None = None,
    outputs: Sequence[Mapping[str, torch.Tensor]] | None = None,
    candidates: Sequence[Candidates] | None = None,
    defense: DefenseMetrics | None = None,
) -> Metrics:
    """Compare answers with the truth, individuals matched by feature where there are features.

    Args:
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        outputs: of the models that the attack deployed, for each batch.
        candidates: that the attack was shown, for each batch.
        defense: what the clients' defense changes and costs, if they have one.
    """
    orders, cosines = match_all(truths, results)
    groupings = groupings_of(truths)
    each_batch = [np.arange(len(truths))]
    seed = seed_for("bootstrap", cell.seed) % 2**32
    implied = _implied_properties(context)

    def of_property(name: str) -> PropertyMetrics:
        scores = ordered_scores(results, orders, name)
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()

        def with_interval(metric: metrics.Metric) -> metrics.Estimate:
            return metrics.estimate(
                lambda weights: metric(scores, present, weights), groupings, seed
            )

        errors = metrics.count_error(scores, present, groupings[0])
        return PropertyMetrics(
            accuracy=with_interval(metrics.accuracy),
            balanced_accuracy=with_interval(metrics.balanced_accuracy),
            auc=with_interval(metrics.auc),
            count_error=metrics.estimate_mean(errors, each_batch, seed),
            prevalence=float(present.mean()),
            in_main_task=name in implied,
        )

    def mean(values: np.ndarray) -> metrics.Estimate | None:
        return metrics.estimate_mean(values, groupings, seed) if len(values) else None

    return Metrics(
        properties={name: of_property(name) for name in cell.properties},
        feature_cosine=mean(cosines),
        exact=mean((cosines >= EXACT).astype(np.float64)),
        certificates=_certificates(results, orders, cosines),
        membership=None if candidates is None else _membership(candidates, results, seed),
        images=_image_metrics(
            truths,
            results,
            orders,
            lambda values: metrics.estimate_mean(values, groupings, seed),
            lpips_weights,
        ),
        label_accuracy=_label_accuracy(truths, results),
        diverged=float(np.mean([result.diverged for result in results])),
        main_task=context.main_task,
        deployed=None if outputs is None else _deployed_accuracy(truths, outputs),
        defense=defense,
        classes=context.split.classes,
    )


def groupings_of(truths: Sequence[GroundTruth]) -> list[metrics.Groups]:
    """Return in which groups individuals are not independent: batches, and images of one person.

    The latter only where somebody is shown twice. Batches may be of different sizes.
    """
    batches = metrics.batches_of(len(truths), [len(truth) for truth in truths])
    identities = torch.cat([truth.identities for truth in truths]).numpy()
    people = metrics.groups_of(identities)
    return [batches] if len(np.unique(people)) == len(people) else [batches, people]


def match_all(
    truths: Sequence[GroundTruth], results: Sequence[AttackResult]
) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return, for each batch, which answer is whose, and all individuals' cosines, shape (n,).

    An attack without features gives all individuals of a batch the same answer, whose order is
    moot, or has read each answer off one individual's output, whose order is theirs.
    """
    orders, cosines = [], []
    for truth, result in zip(truths, results, strict=True):
        if result.features is None:
            orders.append(torch.arange(len(truth)))
            continue
        order, cosine = match_individuals(result.features, truth.features)
        orders.append(order)
        cosines.append(cosine)
    return orders, torch.cat(cosines).double().numpy() if cosines else np.empty(0)


def ordered_scores(
    results: Sequence[AttackResult], orders: Sequence[torch.Tensor], name: str
) -> np.ndarray:
    """Return all individuals' scores of a property in the truth's order, shape (n,).

    Args:
        orders: as `match_all` returns them.
    """
    ordered = [
        result.scores[name].cpu()[order] for result, order in zip(results, orders, strict=True)
    ]
    return torch.cat(ordered).double().numpy()


def _certificates(
    results: Sequence[AttackResult], orders: Sequence[torch.Tensor], cosines: np.ndarray
) -> Certificates | None:
    """Count claims, and those that are false; None where a batch has none."""
    claims = []
    for result, order in zip(results, orders, strict=True):
        if result.certified is None:
            return None
        claims.append(result.certified.cpu()[order])
    claimed = torch.cat(claims).numpy()
    return Certificates(
        share=float(claimed.mean()), false=int((cosines[claimed] < CERTIFIED).sum())
    )


def _membership(
    candidates: Sequence[Candidates], results: Sequence[AttackResult], seed: int
) -> Membership | None:
    """Compare what is said of candidates with the truth; None where nothing is said of a batch."""
    said = [result.membership for result in results if result.membership is not None]
    if len(said) < len(candidates):
        return None
    scores = torch.cat([of_batch.cpu() for of_batch in said]).double().numpy()
    members = torch.cat([each.members for each in candidates]).numpy()
    batches = metrics.batches_of(len(candidates), len(candidates[0].members))
    people = metrics.groups_of(torch.cat([each.identities for each in candidates]).numpy())

    def with_interval(metric: metrics.Metric) -> metrics.Estimate:
        return metrics.estimate(
            lambda weights: metric(scores, members, weights), [batches, people], seed
        )

    return Membership(
        auc=with_interval(metrics.auc),
        true_positive_rate=with_interval(metrics.tpr_at_fpr(FALSE_POSITIVE_RATE)),
    )


def _image_metrics(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    orders: Sequence[torch.Tensor],
    mean: Callable[[np.ndarray], metrics.Estimate],
    lpips_weights: Path | None,
) -> ImageMetrics | None:
    """Compare images in the order of features; None where a batch has none.

    Always on the CPU, so that a record does not depend on the device that scores it.
    """
    network = None
    found: dict[str, list[torch.Tensor]] = {"psnr": [], "ssim": [], "lpips": []}
    for truth, result, order in zip(truths, results, orders, strict=True):
        if result.images is None:
            return None
        # Attacks without projection leave the pixel range; an image file would not.
        images = result.images.detach().cpu().float()[order].clamp(0, 1)
        true = truth.images.cpu()
        found["psnr"].append(psnr(images, true))
        found["ssim"].append(ssim(images, true))
        if lpips_weights is not None:
            network = network or lpips_network(lpips_weights)
            found["lpips"].append(lpips(images, true, network))
    values = {name: torch.cat(of).double().numpy() for name, of in found.items() if of}
    return ImageMetrics(
        psnr=mean(values["psnr"]),
        ssim=mean(values["ssim"]),
        lpips=mean(values["lpips"]) if "lpips" in values else None,
        recognisable=mean((values["psnr"] >= RECOGNISABLE).astype(np.float64)),
    )


def _implied_properties(context: EvaluationContext) -> set[str]:
    """Return the properties that the main task's label gives away by definition."""
    individuals = context.individuals
    task = [individuals.attribute(name) for name in task_attributes(context.setup.main_task)]
    return {
        name
        for name in context.setup.properties
        if any(np.array_equal(individuals.attribute(name), attribute) for attribute in task)
    }


def _deployed_accuracy(
    truths: Sequence[GroundTruth], outputs: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Return the share of individuals whose main-task class each deployed model names."""
    labels = torch.cat([truth.labels for truth in truths])
    return {
        name: (torch.cat([of[name] for of in outputs]).argmax(1) == labels).float().mean().item()
        for name in outputs[0]
    }


def _label_accuracy(truths: Sequence[GroundTruth], results: Sequence[AttackResult]) -> float | None:
    """Return the share of the batches' labels that the attack named, each batch as a multiset."""
    shares = []
    for truth, result in zip(truths, results, strict=True):
        if result.labels is None:
            return None
        size = max(int(truth.labels.max()), int(result.labels.max())) + 1
        true = torch.bincount(truth.labels.cpu(), minlength=size)
        named = torch.bincount(result.labels.cpu(), minlength=size)
        shares.append(torch.minimum(true, named).sum().item() / len(truth))
    return float(np.mean(shares))
