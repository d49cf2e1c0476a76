"""AlexNet's weights for LPIPS: from a file that the user names, or from torch hub's cache."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from leakbench.base.errors import UsageError

DOWNLOAD = "download"

SHAPES = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
}
"""AlexNet's convolutions by torchvision's names → the shapes of their weights."""

WAY_OUT = (
    "name a .pth or .safetensors file of torchvision's AlexNet, or a folder that holds one, with "
    "--lpips-weights PATH, or fetch it with --lpips-weights download"
)


def find_lpips_weights(named: str | None) -> Path | None:
    """Return the file of AlexNet's weights; None where none is named and none in the hub's cache.

    Args:
        named: a file, a folder that holds exactly one, or `download`, which alone downloads.

    Raises:
        UsageError: what is named is not there or is no such file, or cannot be downloaded.
    """
    if named is None:
        # A damaged file that the user did not name stops no run: the column says “no weights”.
        return _in_hub() if _is_good(_in_hub()) else None
    if named == DOWNLOAD:
        return _checked(_downloaded())
    try:
        path = Path(named).expanduser()
    except RuntimeError as error:
        raise UsageError(f"LPIPS weights {named} not found ({error}); {WAY_OUT}") from None
    if path.is_dir():
        return _only_one(path)
    if not path.exists():
        raise UsageError(f"LPIPS weights {named} not found; {WAY_OUT}")
    return _checked(path.resolve())


def read_convolutions(path: Path) -> dict[str, Tensor]:
    """Return AlexNet's convolutions from a file, by torchvision's names; others are left out.

    Raises:
        UsageError: the file cannot be read, or lacks one of them, or one is not finite.
    """
    tensors = _read(path)
    found = {}
    for layer, shape in SHAPES.items():
        for name, expected in ((f"{layer}.weight", shape), (f"{layer}.bias", shape[:1])):
            tensor = tensors.get(name)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
                raise UsageError(
                    f"LPIPS weights {path} hold no tensor {name} of shape {expected}; {WAY_OUT}"
                )
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise UsageError(
                    f"LPIPS weights {path} hold values of {name} that are no finite numbers; "
                    f"{WAY_OUT}"
                )
            found[name] = tensor.float()
    return found


def _read(path: Path) -> Mapping[str, object]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise as many kinds as files can be wrong
        raise UsageError(
            f"LPIPS weights {path} cannot be read as tensors ({type(error).__name__}); {WAY_OUT}"
        ) from error
    return tensors if isinstance(tensors, Mapping) else {}


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"LPIPS weights {path} are no regular file; {WAY_OUT}")
    if _is_damaged(path):
        raise UsageError(
            f"LPIPS weights {path} are damaged: their content does not have the checksum that the "
            f"file tells; {WAY_OUT}"
        )
    read_convolutions(path)
    return path


def _is_damaged(path: Path) -> bool:
    """Whether a file has not the checksum in its name, or a part of it not that beside the part.

    Of torchvision's own file the name has digits of the SHA-256; every .pth file of today's format
    is a ZIP archive with a CRC-32 of each part, which PyTorch does not check.
    """
    try:
        with path.open("rb") as file:
            if digits := _official_digits(path):
                return not hashlib.file_digest(file, "sha256").hexdigest().startswith(digits)
        if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return True


def _official_digits(path: Path) -> str:
    """Return the first digits of the SHA-256 in the name of torchvision's file; else nothing."""
    official = Path(_url())
    return official.stem.rpartition("-")[2] if path.name == official.name else ""


def _is_good(path: Path) -> bool:
    try:
        _checked(path)
    except UsageError:
        return False
    return True


def _only_one(folder: Path) -> Path:
    fitting = []
    for path in sorted(folder.resolve().iterdir()):
        if path.suffix in {".pth", ".safetensors"}:
            fitting += [path] * _is_good(path)
    if len(fitting) != 1:
        named = ", ".join(path.name for path in fitting) or "none"
        raise UsageError(
            f"folder {folder} must hold exactly one file with AlexNet's weights for LPIPS, but "
            f"holds {named}; {WAY_OUT}"
        )
    return fitting[0]


def _in_hub() -> Path:
    """Return the place to which LPIPS's own download goes."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_url()).name


def _url() -> str:
    from torchvision.models import AlexNet_Weights

    return str(AlexNet_Weights.IMAGENET1K_V1.url)


def _downloaded() -> Path:
    path = _in_hub()
    if not _is_good(path):
        digits = _official_digits(Path(_url()))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(_url(), str(path), hash_prefix=digits)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"LPIPS weights could not be downloaded from {_url()} to {path} ({error}); get the "
                f"file by other means and name it with --lpips-weights PATH"
            ) from error
    return path
