"""The user's model, from a function in a Python file or from a saved program."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.export import ExportedProgram

from leakbench.auditing.tensor_names import shared_names
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

Model = nn.Module | ExportedProgram


def load_model(source: str, weights: Path | None) -> Model:
    """Return the model at a path.

    Both kinds are code, to be loaded from trusted sources only: PyTorch evaluates the shapes and
    guards that a program was saved with. Nothing is ever unpickled.

    Args:
        source: `FILE.py:NAME` or `package.module:NAME`, where NAME is an `nn.Module` or a function
            without arguments that returns one; or a program saved by `torch.export.save`,
            `FILE.pt2`.
        weights: a safetensors file of the model's state; None for the weights that it has.

    Raises:
        UsageError: it cannot be found, is no model, or the weights do not fit.
    """
    if source.endswith(".pt2"):
        if weights is not None:
            raise UsageError(f"{source} contains its weights; leave --weights out")
        return _program(Path(source))
    if source.endswith((".pt", ".pth", ".pkl", ".ckpt")):
        raise UsageError(
            f"{source} may be a pickle, which is never loaded; save the program with "
            f"torch.export.save (FILE.pt2), or give FILE.py:NAME and its state as safetensors"
        )
    model = _from_python(source)
    if weights is not None:
        _load_state(model, weights)
    return model


def load_tensors(path: Path, role: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and the metadata in its header.

    Args:
        role: of the file, for messages.

    Raises:
        UsageError: it is missing, or not a safetensors file.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UsageError(f"{role} {path} not found") from None
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{role} {path} is not a safetensors file ({error}); save it with "
            f"safetensors.torch.save_file"
        ) from error


def _from_python(source: str) -> nn.Module:
    place, colon, name = source.partition(":")
    if not colon:
        raise UsageError(
            f"model {source!r} must be FILE.py:NAME, package.module:NAME, or a saved program "
            f"FILE.pt2"
        )
    module = _python_file(Path(place)) if place.endswith(".py") else _python_module(place)
    found: Any = getattr(module, name, None)
    if found is None:
        raise UsageError(f"{place} has no {name!r} that makes the model")
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise UsageError(
            f"{source} cannot be called without arguments ({type(error).__name__}: {error}); write "
            f"a function that returns the model"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{source} returns {type(model).__name__}, not a torch.nn.Module")
    return model


def _python_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"model file {path} not found")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"model file {path} cannot be run ({type(error).__name__}: {error})"
        ) from error
    finally:
        sys.path.pop(0)
    return module


def _python_module(place: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise UsageError(
            f"module {place!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    finally:
        sys.path.pop(0)


def _load_state(model: nn.Module, path: Path) -> None:
    tensors, _ = load_tensors(path, "weights file")
    # Of a tensor with several names, safetensors keeps one.
    for names in shared_names(model):
        kept = next((tensors[name] for name in names if name in tensors), None)
        if kept is not None:
            tensors |= {name: kept for name in names if name not in tensors}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        message = one_line(str(error))[:400]
        raise UsageError(f"the weights in {path} do not fit the model: {message}") from error


def _program(path: Path) -> ExportedProgram:
    """Return a saved program, without reading any pickled part.

    Raises:
        UsageError: it is missing, malformed, or has parts that could only be unpickled.
    """
    if not path.is_file():
        raise UsageError(f"model file {path} not found")
    try:
        archive = _without_pickles(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(archive)
    except UsageError:
        raise
    except Exception as error:
        message = one_line(str(error))[:200]
        raise UsageError(
            f"{path} cannot be read as a saved program ({message}); save it with "
            f"torch.export.save of the installed PyTorch {torch.__version__}"
        ) from error


# PyTorch ignores the case of records' names, so that only exactly these are accepted.
EXAMPLE_INPUTS = "data/sample_inputs/model.pt"
CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_[0-9]+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_[0-9]+"),
}
"""Records that describe how tensors are stored → the allowed names of the tensors' records."""
RECORDS = re.compile(
    "|".join(
        [
            *map(re.escape, ("models/model.json", EXAMPLE_INPUTS, *CONFIGS)),
            *(r"data/weights/weight_[0-9]+", r"data/constants/tensor_[0-9]+"),
            *(r"archive_format", r"archive_version", r"byteorder"),
            *(r"\.data/version", r"\.data/serialization_id"),
        ]
    )
)
"""The records that `torch.export.save` writes for a program of plain tensors."""


def _without_pickles(path: Path) -> io.BytesIO:
    """Return a program's archive without its example inputs, which PyTorch would unpickle.

    Raises:
        UsageError: it has a record that a program of plain tensors does not have, or a duplicate.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as plain:
        names = [entry.filename.partition("/")[2] for entry in archive.infolist()]
        roots = {entry.filename.partition("/")[0] for entry in archive.infolist()}
        if len(set(names)) < len(names) or len(roots) != 1 or "models/model.json" not in names:
            raise UsageError(
                f"{path} has no program, or parts of the same name; save it with torch.export.save"
            )
        for entry, name in zip(archive.infolist(), names, strict=True):
            content = b"" if name == EXAMPLE_INPUTS else archive.read(entry)
            if not RECORDS.fullmatch(name) or _is_pickled(name, content):
                raise UsageError(
                    f"{path} holds {entry.filename!r}, which is no part of a program of plain "
                    f"tensors: it could only be unpickled or run as machine code, which is never "
                    f"done; export a model of plain tensors, without extra files"
                )
            plain.writestr(f"program/{name}", content)
    copy.seek(0)
    return copy


def _is_pickled(name: str, content: bytes) -> bool:
    """Whether a record declares that a tensor, or anything else, is pickled."""
    if name not in CONFIGS:
        return False
    return any(
        entry.get("use_pickle") or not CONFIGS[name].fullmatch(entry["path_name"])
        for entry in json.loads(content)["config"].values()
    )
