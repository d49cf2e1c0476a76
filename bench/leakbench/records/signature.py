"""Signatures by which a machine knows again what it wrote itself.

They prove nothing to others: the secret stays in the user's cache folder. Who deletes it makes all
that was signed foreign.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from leakbench.base.cache import cache_folder, locked
from leakbench.base.errors import UsageError
from leakbench.base.seeds import digest

NAME = "verification.secret"

BYTES = 32


def signature(*parts: Any) -> str:
    """Return the signature of parts that JSON can hold, 64 hexadecimal digits.

    Raises:
        UsageError: there is no secret yet, and none can be written to the cache.
    """
    return _signed(_own_secret(), parts)


def is_own(claimed: str, *parts: Any) -> bool:
    """Whether this machine signed these parts so."""
    secret = _secret_in(cache_folder() / NAME)
    return secret is not None and hmac.compare_digest(
        _signed(secret, parts).encode(), claimed.encode()
    )


def _signed(secret: bytes, parts: tuple[Any, ...]) -> str:
    return hmac.new(secret, digest(*parts).encode(), "sha256").hexdigest()


def _secret_in(path: Path) -> bytes | None:
    try:
        secret = path.read_bytes()
    except OSError:
        return None
    return secret if len(secret) == BYTES else None


def _own_secret() -> bytes:
    """Return this user's secret; a new one if there is none."""
    path = cache_folder() / NAME
    with locked(NAME):
        if (secret := _secret_in(path)) is not None:
            return secret
        secret = secrets.token_bytes(BYTES)
        temporary = path.with_suffix(".new")
        try:
            temporary.unlink(missing_ok=True)
            # Nobody else may read it at any time.
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secret)
            temporary.replace(path)
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror}; set LEAKBENCH_CACHE to a folder that can "
                f"be written to"
            ) from error
        return secret
