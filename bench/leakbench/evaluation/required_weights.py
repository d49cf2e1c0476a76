"""The pretrained weights that setups need, looked for before long work begins."""

from __future__ import annotations

from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.registry import MODELS
from leakbench.evaluation.shared_training import initial_model
from leakbench.experiments.cell import Setup
from leakbench.federation.backbones.weight_registry import NONE
from leakbench.federation.backbones.weight_sources import (
    Downloading,
    path_in_cache,
    provide,
    takes_weights,
)


def weights_of(setup: Setup) -> str:
    """Return the name of the pretrained weights of a setup's model; `none` if it has none.

    Raises:
        UsageError: the model is unknown.
    """
    if not takes_weights(MODELS.get(setup.model)):
        return NONE
    return str(setup.spec("model").build(MODELS).weights)


def provide_weights(
    setup: Setup, data_root: Path | None, downloading: Downloading = "allowed"
) -> None:
    """Make sure that this machine has the pretrained weights of a setup's model; see `provide`.

    Raises:
        UsageError: they are nowhere, or cannot be fetched.
    """
    provide(weights_of(setup), setup.model, data_root, downloading)


def cached_weights(setup: Setup) -> str | None:
    """Return the path in the cache of the pretrained weights of a setup's model; None without.

    Raises:
        UsageError: the model is unknown.
    """
    return path_in_cache(weights_of(setup), setup.model)


class WeightsHere:
    """The pretrained weights on this machine; those of each model are looked for once.

    Args:
        data_root: the folder of data sets, beside which weights may be.
        downloading: whether weights that are named `download` may be fetched.
    """

    def __init__(self, data_root: Path | None, downloading: Downloading = "allowed") -> None:
        self._data_root, self._downloading = data_root, downloading
        self._known: dict[str, UsageError | None] = {}

    def require(self, setup: Setup) -> None:
        """Refuse a setup whose model's weights are not here, or do not fit it.

        Raises:
            UsageError: says what is missing or wrong.
        """
        key = setup.model_dump_json(include={"model", "model_parameters", "image_size", "split"})
        if key not in self._known:
            self._known[key] = self._fault(setup)
        if (error := self._known[key]) is not None:
            raise error

    def _fault(self, setup: Setup) -> UsageError | None:
        try:
            if weights_of(setup) != NONE:
                provide_weights(setup, self._data_root, self._downloading)
                # Weights of another network are refused before any work.
                initial_model(setup, classes=2)
        except UsageError as error:
            return error
        return None
