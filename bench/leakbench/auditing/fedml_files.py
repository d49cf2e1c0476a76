"""Weights in the files that FedML's clients and server exchange."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2

from leakbench.auditing.weight_files import weights_by_name
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

WRITTEN_BY = "FedML's model storage"


def read_fedml(path: Path | str) -> dict[str, Tensor]:
    """Return the weights in a file that FedML's clients or server sent, by name.

    Such a file is an object of the model storage, as `S3Storage.write_model` writes it: the pickle
    of the model's state dict; see `fedml/core/distributed/communication/s3/remote_storage.py`.
    Nothing but dicts and tensors is unpickled.

    Raises:
        UsageError: the file cannot be read in this way, or holds something else.
    """
    file = Path(path)
    try:
        with file.open("rb") as content:
            found = _TensorUnpickler(content).load()
    except Exception as error:  # Whatever a damaged file makes of it.
        raise UsageError(
            f"{file} cannot be read as a pickled state dict ({one_line(str(error))[:200]}); give a "
            f"file of {WRITTEN_BY}"
        ) from error
    return weights_by_name(found, file, WRITTEN_BY)


def _storage(content: bytes) -> Any:
    """Return a tensor's storage, without unpickling anything else."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
}
"""All that a pickled state dict of tensors names; the last would unpickle whatever it is given."""


class _TensorUnpickler(pickle.Unpickler):
    """Reads dicts of tensors, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names.

        Raises:
            UnpicklingError: it is not among what tensors need.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of tensors")
        return ALLOWED[module, name]
