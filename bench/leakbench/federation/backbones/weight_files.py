"""Files of pretrained weights: safetensors only, known by the SHA-256 of their content.

The cache has a copy of each file that was named, `weights/DIGEST.safetensors`, so that worker
processes and later runs find it by its digest alone.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from safetensors import SafetensorError, safe_open

from leakbench.base.cache import DamagedFileWarning, cache_folder, locked, store_file
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError, replacing
from leakbench.base.seeds import digest
from leakbench.federation.backbones.weight_registry import PREFIX, WORDS

FOLDER = "backbones"
"""The folder of weights beside the data sets, under --data-root."""


def cached_path(content: str) -> str:
    """Return the path in the cache of the file whose content has this SHA-256."""
    return f"weights/{content}"


def content_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits.

    It is computed once, and again when the file has been replaced or changed since.

    Raises:
        OSError: the file cannot be read.
    """
    found = file.stat()
    changed = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    note = cache_folder() / "weights" / "digests" / digest(str(file.resolve()), changed)[:24]
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", known := note.read_text(encoding="ascii")):
            return known
    with file.open("rb") as stream:
        computed = hashlib.file_digest(stream, "sha256").hexdigest()
    # A cache that may only be read stays usable.
    with suppress(WriteError), replacing(note) as temporary:
        temporary.write_text(computed, encoding="ascii")
    return computed


def named_file(text: str) -> Path:
    """Return the file of weights that a user names.

    Raises:
        UsageError: it is not there, cannot be read, or is no safetensors file.
    """
    try:
        file = Path(text).expanduser()
        if not file.exists():
            raise UsageError(f"there is no such file; {_nearest(text, file)}")
        if file.is_dir():
            raise UsageError("this is a folder; name the safetensors file in it")
        _check_format(file)
    except (OSError, RuntimeError, ValueError) as error:
        # An unreadable folder, a home that nobody has, a character that no path may have.
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"this file cannot be read ({why})") from None
    return file


def _nearest(text: str, file: Path) -> str:
    """Return what may be meant by a text that names no file."""
    beside = [each.name for each in file.parent.glob("*.safetensors")]
    near = get_close_matches(text, WORDS, n=1)
    near += [str(file.with_name(name)) for name in get_close_matches(file.name, beside, n=2)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"name a safetensors file, or take {', '.join(WORDS)} or {PREFIX}DIGEST"


def _check_format(file: Path) -> None:
    """Refuse a file that is not safetensors, before anything in it is used.

    Raises:
        UsageError: says what it is, and how to convert a pickle.
    """
    try:
        with safe_open(file, "pt") as opened:
            if not list(opened.keys()):
                raise UsageError("this file holds no tensors")
    except SafetensorError as error:
        with file.open("rb") as stream:
            start = stream.read(2)
        # PyTorch's files: zip archives, or before version 1.6 bare pickles.
        if start == b"PK" or start[:1] == b"\x80":
            raise UsageError(
                "this is a pickle, which can run code when it is loaded; convert it once, where "
                "you trust it, with safetensors.torch.save_file(torch.load(FILE, "
                "weights_only=True), 'weights.safetensors')"
            ) from None
        raise UsageError(
            f"this is no safetensors file, or a truncated or damaged one ({error})"
        ) from None


def is_stored(content: str) -> bool:
    """Whether the cache has an undamaged copy of the file whose content has this SHA-256."""
    try:
        return content_digest(_stored(content)) == content
    except OSError:
        return False


def store(file: Path, content: str) -> None:
    """Copy a file of weights into the cache, unless it is there.

    Args:
        content: the SHA-256 of its content.

    Raises:
        UsageError: the file cannot be read, or its content has changed.
        WriteError: the cache cannot be written to, or the disk is full or broken.
    """
    if is_stored(content):
        return
    with locked(cached_path(content)):
        # Another process may have stored it in the meantime.
        if is_stored(content):
            return
        try:
            read = file.read_bytes()
        except OSError as error:
            raise UsageError(f"weights {file} cannot be read ({error.strerror})") from None
        if hashlib.sha256(read).hexdigest() != content:
            raise UsageError(f"weights {file} were changed while they were read; try again")
        if _stored(content).exists():
            message = f"cache file {_stored(content)} was damaged and is made again"
            warnings.warn(DamagedFileWarning(message), stacklevel=2)
        store_file(cached_path(content), read)
        if not is_stored(content):
            raise WriteError(f"{_stored(content)} was not written as it is; check the disk")


def find_under(data_root: Path | None, content: str) -> Path | None:
    """Return the file under `DATA_ROOT/backbones` whose content has this SHA-256, if any."""
    for file in sorted((data_root / FOLDER).glob("*.safetensors")) if data_root else []:
        with suppress(OSError):
            if content_digest(file) == content:
                return file
    return None


def _stored(content: str) -> Path:
    return cache_folder() / f"{cached_path(content)}.safetensors"
