"""Settings that take one of a few values."""

from __future__ import annotations

from typing import Literal

Mode = Literal["eval", "train"]
"""How clients run the model when they compute an update: BatchNorm layers normalise by their
running statistics (`eval`) or by the batch's own (`train`)."""


Compiling = Literal["auto", "on", "off"]
"""Whether an attack compiles its steps; `auto` where that takes less time than it saves."""


PropertyModelKind = Literal["logistic", "validated"]
"""What f_p is: a logistic regression, or what cross-validation in D_aux chooses among linear models
and networks with a hidden layer, trained on mirrored images too and calibrated."""


Precision = Literal["float32", "tf32", "bfloat16"]
"""In which the adversary's copy of the model computes; TF32 on CUDA only."""
