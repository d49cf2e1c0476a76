"""Where the audit meets the evaluation harness: the property model f_p, and scores.

The harness asks for a cell and its context, of which it reads what an audit has. This module alone
writes them, so that the rest of the audit knows nothing of cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from leakbench.auditing.threat_model import ThreatModel
from leakbench.data.dataset import Individuals
from leakbench.data.split import IDENTITY_TASK, Split
from leakbench.evaluation import preparation, scoring
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.experiments.cell import Cell, Setup
from leakbench.federation.shared_model import SharedModel, deep_features
from leakbench.records.record import Metrics
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth
from leakbench.threat.server import Auxiliary, FeatureSpace, Server


def feature_space(model: SharedModel, auxiliary: Auxiliary, threat: ThreatModel) -> FeatureSpace:
    """Return D_aux's deep features and f_p.

    Raises:
        UsageError: nothing can be learned from this D_aux.
    """
    features = deep_features(model, auxiliary.images)
    setup = _setup(tuple(auxiliary.properties), auxiliary.images.shape[2], threat)
    return preparation.feature_space(model, auxiliary, features, setup)


def score(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    server: Server,
    threat: ThreatModel,
    main_task: Mapping[str, float],
) -> Metrics:
    """Return the metrics of an attack's answers.

    Args:
        main_task: accuracy of the model, as `EvaluationContext.main_task`.
    """
    setup = _setup(server.properties, server.image_shape[1], threat)
    context = EvaluationContext(
        setup=setup,
        individuals=Individuals(np.empty((0, 0), dtype=np.uint8), {}, np.arange(0), ""),
        split=Split([], np.arange(0), np.arange(0), np.arange(0), server.classes),
        server=server,
        hits=torch.zeros(0, dtype=torch.bool),
        main_task=dict(main_task),
        fingerprint="",
        device=str(_device(truths)),
    )
    individuals = sum(map(len, truths))
    cell = Cell(**setup.model_dump(), attack="", batch_size=individuals, individuals=individuals)
    return scoring.score(truths, results, cell, context)


def _device(truths: Sequence[GroundTruth]) -> torch.device:
    images: Tensor = truths[0].images
    return images.device


def _setup(properties: tuple[str, ...], image_size: int, threat: ThreatModel) -> Setup:
    return Setup(
        dataset="",
        image_size=image_size,
        properties=properties,
        main_task=IDENTITY_TASK,
        model="",
        rounds=0,
        property_model=threat.property_model,
        seed=threat.seed,
    )
