"""Weights in the checkpoints of NVIDIA FLARE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from leakbench.auditing.weight_files import weights_by_name
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

WRITTEN_BY = "NVIDIA FLARE's PTFileModelPersistor"


def read_nvflare(path: Path | str) -> dict[str, Tensor]:
    """Return the weights in a checkpoint of NVIDIA FLARE's `PTFileModelPersistor`, by name.

    Such a file, `FL_global_model.pt` by default, is what `torch.save` writes of a dict that has the
    weights as `model`, beside `meta_props` and `train_conf`; see `PTModelPersistenceFormatManager`
    in `nvflare/app_opt/pt`. A dict of weights alone, as FLARE takes it too, is read as well.
    Nothing but tensors and plain values is unpickled.

    Raises:
        UsageError: the file cannot be read in this way, or holds something else.
    """
    file = Path(path)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Whatever a damaged file makes of it.
        raise UsageError(
            f"{file} cannot be read as a checkpoint ({one_line(str(error))[:200]}); give a file of "
            f"{WRITTEN_BY}"
        ) from error
    if isinstance(found, Mapping) and "model" in found:
        found = found["model"]
    return weights_by_name(found, file, WRITTEN_BY)
