"""The user's model from where it lies: a function in a Python file, or a saved program."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import sys
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.export import ExportedProgram

from bench.errors import UsageError

Model = nn.Module | ExportedProgram


def load_model(source: str, weights: Path | None) -> Model:
    """Return the model that a user names.

    Args:
        source: `FILE.py:NAME` or `package.module:NAME`, NAME being a module or what returns one
            without arguments; or a program saved by `torch.export.save`, `FILE.pt2`.
        weights: a safetensors file of the model's state; None to leave it as it is made.

    Raises:
        UsageError: it cannot be found, is no model, or the weights do not fit.
    """
    if source.endswith(".pt2"):
        if weights is not None:
            raise UsageError(f"{source} holds weights of its own; leave --weights out")
        return _program(Path(source))
    if source.endswith((".pt", ".pth", ".pkl", ".ckpt")):
        raise UsageError(
            f"{source} may be a pickle, which is never loaded; save the program with "
            f"torch.export.save (FILE.pt2), or give FILE.py:NAME and its state as safetensors"
        )
    model = _made(source)
    if weights is not None:
        _load_state(model, weights)
    return model


def load_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and the notes in its header.

    Raises:
        UsageError: it is not there, or no such file.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UsageError(f"{what} {path} not found") from None
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{what} {path} is no safetensors file ({error}); save it by "
            f"safetensors.torch.save_file"
        ) from error


def _made(source: str) -> nn.Module:
    place, colon, name = source.partition(":")
    if not colon:
        raise UsageError(
            f"model {source!r} must be FILE.py:NAME, package.module:NAME, or a saved program "
            f"FILE.pt2"
        )
    module = _python_file(Path(place)) if place.endswith(".py") else _python_module(place)
    found: Any = getattr(module, name, None)
    if found is None:
        raise UsageError(f"{place} has no {name!r} to make the model by")
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise UsageError(
            f"{source} cannot be called without arguments ({type(error).__name__}: {error}); write "
            f"a function that returns the model"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{source} gives {type(model).__name__}, not a torch.nn.Module")
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
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:400]
        raise UsageError(f"the weights in {path} do not fit the model: {said}") from error


def _program(path: Path) -> ExportedProgram:
    """Return a saved program, of which no pickled part is read.

    Raises:
        UsageError: it is not there, is none, or has parts that could only be unpickled.
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
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path} cannot be read as a saved program ({said}); save it by torch.export.save with "
            f"the installed PyTorch {torch.__version__}"
        ) from error


def _without_pickles(path: Path) -> io.BytesIO:
    """Return a program's archive without its example inputs, which PyTorch would unpickle."""
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as plain:
        for entry in archive.infolist():
            content = archive.read(entry)
            parts = PurePosixPath(entry.filename).parts
            if "sample_inputs" in parts:
                content = b""
            elif entry.filename.endswith((".pt", ".pkl")) or _is_pickled(entry.filename, content):
                raise UsageError(
                    f"{path} holds {entry.filename!r}, which could only be unpickled, and no "
                    f"pickle is ever loaded; export a model of plain tensors"
                )
            plain.writestr(entry.filename, content)
    copy.seek(0)
    return copy


def _is_pickled(name: str, content: bytes) -> bool:
    if not name.endswith("_config.json"):
        return False
    entries = json.loads(content).get("config", {}).values()
    return any(
        entry.get("use_pickle") or not entry["path_name"].startswith(("weight_", "tensor_"))
        for entry in entries
    )
