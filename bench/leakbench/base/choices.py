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


LearningRateSchedule = Literal["constant", "cosine"]
"""The learning rate by round: the same in all, or half a cosine from its value down to almost 0 in
the attacked round."""


Augmentation = Literal["none", "flip", "flip_crop"]
"""What clients do to each image in each round of training: nothing, mirror half of them, or also
shift them at random by up to an eighth of their size."""


Precision = Literal["float32", "tf32", "bfloat16"]
"""Precision in which the adversary's copy of the model computes; TF32 on CUDA only."""


DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""Where tensors are computed; `auto` takes a GPU where there is one."""


ExecutorName = Literal["local", "ray"]
"""What runs the steps of a sweep: processes of this machine, or tasks of a Ray cluster."""


Redo = Literal["never", "failed", "stale", "all"]
"""Which cells that have a record are measured again: none; those that failed; also those whose data
set has changed since, or whose images lack an LPIPS that can be computed now; or all. A cell whose
attack has a new version is another cell, and has no record."""
