"""Scoring: an attack's answers against the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from leakbench.base.seeds import seed_for
from leakbench.data.split import task_attributes
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.estimates import Bootstrap, Groups, batches_of, groups_of
from leakbench.metrics.image_metrics import lpips, lpips_network, psnr, ssim
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.scored import BinaryScores, ScoredCell, ScoredProperty
from leakbench.metrics.spec import MetricSpec, Value
from leakbench.records.record import DefenseMetrics, Metrics
from leakbench.threat.attack import AttackResult
from leakbench.threat.candidates import Candidates
from leakbench.threat.observation import GroundTruth


@dataclass(frozen=True)
class ScoringSetup:
    """What scoring has to know besides ground truth and answers.

    Attributes:
        properties: to score.
        implied: those among them that the main task's label implies by definition.
        classes: number K of main-task classes.
        main_task: the shared model's accuracy and what it compares with, see `EvaluationContext`.
        seed: of the bootstrap.
    """

    properties: tuple[str, ...]
    implied: frozenset[str]
    classes: int
    main_task: Mapping[str, float]
    seed: int

    @classmethod
    def of(cls, context: EvaluationContext) -> Self:
        """Return the setup of a context's cells."""
        return cls(
            properties=context.setup.properties,
            implied=_implied_properties(context),
            classes=context.split.classes,
            main_task=context.main_task,
            seed=context.setup.seed,
        )


def score(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    setup: ScoringSetup,
    lpips_weights: Path | None = None,
    outputs: Sequence[Mapping[str, torch.Tensor]] | None = None,
    candidates: Sequence[Candidates] | None = None,
    defense: DefenseMetrics | None = None,
) -> Metrics:
    """Return the metrics of answers, with individuals matched by feature where there are features.

    Args:
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        outputs: of the models that the attack deployed, for each batch.
        candidates: that the attack was shown, for each batch.
        defense: what the clients' defense changes and costs, if they have one.
    """
    scored = _scored(truths, results, setup, lpips_weights, candidates)
    properties = {
        name: {
            spec.fields[-1]: spec.of_property(of)
            for spec in PROPERTY_METRICS
            if spec.of_property is not None
        }
        for name, of in scored.properties.items()
    }
    of_cell = _nested(
        (spec, spec.of_cell(scored)) for spec in CELL_METRICS if spec.of_cell is not None
    )
    return Metrics.model_validate(
        {
            **of_cell,
            "properties": properties,
            "main_task": dict(setup.main_task),
            "deployed": None if outputs is None else _deployed_accuracy(truths, outputs),
            "defense": defense,
            "classes": setup.classes,
        }
    )


def _nested(values: Iterable[tuple[MetricSpec, Value]]) -> dict[str, Any]:
    """Return values nested as in a record; a part whose values are all None is None itself."""
    nested: dict[str, Any] = {}
    for spec, value in values:
        *parts, last = spec.fields
        inside = nested
        for part in parts:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return {name: None if _is_blank(part) else part for name, part in nested.items()}


def _is_blank(part: Any) -> bool:
    return isinstance(part, dict) and all(value is None for value in part.values())


def _scored(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    setup: ScoringSetup,
    lpips_weights: Path | None,
    candidates: Sequence[Candidates] | None,
) -> ScoredCell:
    orders, cosines = match_all(truths, results)
    groupings = groupings_of(truths)
    seed = seed_for("bootstrap", setup.seed) % 2**32
    # Each is drawn once, for all metrics and properties.
    individuals = Bootstrap(groupings, seed)
    by_batch = Bootstrap([np.arange(len(truths))], seed)
    return ScoredCell(
        properties={
            name: ScoredProperty(
                scores=ordered_scores(results, orders, name),
                present=torch.cat([truth.properties[name] for truth in truths]).numpy(),
                bootstrap=individuals,
                batches=groupings[0],
                by_batch=by_batch,
                in_main_task=name in setup.implied,
            )
            for name in setup.properties
        },
        individuals=individuals,
        cosines=cosines if len(cosines) else None,
        certified=_certified(results, orders),
        membership=None if candidates is None else _membership(candidates, results, seed),
        images=_image_values(truths, results, orders, lpips_weights),
        label_shares=_label_shares(truths, results),
        diverged=np.array([result.diverged for result in results]),
    )


def groupings_of(truths: Sequence[GroundTruth]) -> list[Groups]:
    """Return the groups within which individuals are not independent: batches, and identities.

    Identities only where one appears several times. Batches may be of different sizes.
    """
    batches = batches_of(len(truths), [len(truth) for truth in truths])
    identities = groups_of(torch.cat([truth.identities for truth in truths]).numpy())
    is_unique = len(np.unique(identities)) == len(identities)
    return [batches] if is_unique else [batches, identities]


def match_all(
    truths: Sequence[GroundTruth], results: Sequence[AttackResult]
) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return each batch's order of answers, and the cosines of all individuals, shape (n,).

    An attack without features either gives all individuals of a batch the same answer, so that
    their order does not matter, or answers in the order of the batch.
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
    """Return the scores of a property in the order of the ground truth, shape (n,).

    Args:
        orders: as `match_all` returns them.
    """
    ordered = [
        result.scores[name].cpu()[order] for result, order in zip(results, orders, strict=True)
    ]
    return torch.cat(ordered).double().numpy()


def _certified(
    results: Sequence[AttackResult], orders: Sequence[torch.Tensor]
) -> np.ndarray | None:
    """Return which individuals' features are certified; None where a batch has no such claims."""
    claims = []
    for result, order in zip(results, orders, strict=True):
        if result.certified is None:
            return None
        claims.append(result.certified.cpu()[order])
    return torch.cat(claims).numpy()


def _membership(
    candidates: Sequence[Candidates], results: Sequence[AttackResult], seed: int
) -> BinaryScores | None:
    """Return the candidates' scores with the ground truth; None where a batch has none."""
    scores = [result.membership for result in results if result.membership is not None]
    if len(scores) < len(candidates):
        return None
    batches = batches_of(len(candidates), len(candidates[0].members))
    identities = groups_of(torch.cat([each.identities for each in candidates]).numpy())
    return BinaryScores(
        scores=torch.cat([of_batch.cpu() for of_batch in scores]).double().numpy(),
        present=torch.cat([each.members for each in candidates]).numpy(),
        bootstrap=Bootstrap([batches, identities], seed),
    )


def _image_values(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    orders: Sequence[torch.Tensor],
    lpips_weights: Path | None,
) -> dict[str, np.ndarray] | None:
    """Return each image metric's values, matched by feature; None where a batch has no images.

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
    return {name: torch.cat(of).double().numpy() for name, of in found.items() if of}


def _implied_properties(context: EvaluationContext) -> frozenset[str]:
    """Return the properties that the main task's label implies by definition."""
    individuals = context.individuals
    task = [individuals.attribute(name) for name in task_attributes(context.setup.main_task)]
    return frozenset(
        name
        for name in context.setup.properties
        if any(np.array_equal(individuals.attribute(name), attribute) for attribute in task)
    )


def _deployed_accuracy(
    truths: Sequence[GroundTruth], outputs: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Return each deployed model's accuracy on the main task."""
    labels = torch.cat([truth.labels for truth in truths])
    return {
        name: (torch.cat([of[name] for of in outputs]).argmax(1) == labels).float().mean().item()
        for name in outputs[0]
    }


def _label_shares(
    truths: Sequence[GroundTruth], results: Sequence[AttackResult]
) -> np.ndarray | None:
    """Return the share of each batch's labels that the attack inferred, as a multiset."""
    shares = []
    for truth, result in zip(truths, results, strict=True):
        if result.labels is None:
            return None
        size = max(int(truth.labels.max()), int(result.labels.max())) + 1
        true = torch.bincount(truth.labels.cpu(), minlength=size)
        inferred = torch.bincount(result.labels.cpu(), minlength=size)
        shares.append(torch.minimum(true, inferred).sum().item() / len(truth))
    return np.array(shares)
