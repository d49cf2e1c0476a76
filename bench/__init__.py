"""leakbench: what a federated-learning server learns about each individual, measured.

`bench.audit(...)` audits a model of one's own, see `bench.audit.audit`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the command line starts without PyTorch.
    if name == "audit":
        import importlib

        return importlib.import_module("bench.audit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
