"""Types of settings that have a fixed set of values."""

from __future__ import annotations

from typing import Literal

Mode = Literal["eval", "train"]
"""Mode of the clients' model when they compute an update: BatchNorm layers normalise by running
statistics (`eval`) or by the batch's statistics (`train`)."""


Compiling = Literal["auto", "on", "off"]
"""Whether an attack compiles its steps; `auto`: if that takes less time than it saves."""


PropertyModelKind = Literal["logistic", "validated"]
"""Kind of f_p: a logistic regression, or a model selected by cross-validation in D_aux among linear
models and networks with a hidden layer, trained on mirrored images too and calibrated."""


Precision = Literal["float32", "tf32", "bfloat16"]
"""Precision in which the adversary's copy of the model computes; TF32 on CUDA only."""
