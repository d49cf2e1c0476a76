"""A pretrained network whose clients normalise by their batch, on real faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from convolutional_planting import PlantedImages
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell
from leakbench.federation.backbones.weight_registry import PACKAGED
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.threat.observation import Observation
from test_training_mode_ends import Normalised

pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.nightly]


@pytest.mark.parametrize("individuals", [4, 8])
def test_everybody_is_certified(data_root: Path, individuals: int) -> None:
    """EfficientNet-Lite0 as ImageNet trained it, then 20 rounds; K = 2, 64 px, 4 positions."""
    pytest.importorskip(PACKAGED["efficientnet_lite0"].module, reason="needs the extra pretrained")
    cell = Cell.model_validate(
        {
            "dataset": "celeba",
            "image_size": 64,
            "model": "efficientnet_lite0",
            "model_parameters": {
                "weights": "package",
                "input_size": 64,
                "hidden_layers": 0,
                "trained": "last",
            },
            "properties": ("gender",),
            "main_task": "Mouth_Slightly_Open",
            "rounds": 20,
            "learning_rate": 0.02,
            "property_model": "logistic",
            "auxiliary_individuals": 500,
            "attack": "convolution_demixing",
            "individuals": 16,
            "batch_size": 8,
            "grant": ("model", "update", "auxiliary", "statistics"),
        }
    )
    context = prepare(cell.setup, data_root, "cpu", lambda message: None)
    server = context.server
    assert server.model is not None and server.auxiliary is not None
    assert server.feature_space is not None
    for truth in victim_batches(context, individuals, 16):
        images = server.auxiliary.images[:160]
        batch = Normalised(PlantedImages(server.model, truth.images, truth.labels, images))
        space = replace(server.feature_space, features=batch.auxiliary, by_batch=True)
        seen = Observation(individuals, 0, batch.update, statistics=batch.statistics)
        (found,) = ConvolutionDemixing().recovered(
            replace(server, mode="train", feature_space=space), [seen], lambda share: None
        )
        assert int(found.certified.sum()) == individuals
        assert batch.cosines(found).min() > CERTIFIED
