"""Which parts of a model clients train, as their updates show."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn
from torch.export import ExportedProgram

from leakbench.auditing.copied_model import computed_tensors
from leakbench.auditing.tensor_names import shared_names, without_wrappers
from leakbench.auditing.updates import CapturedUpdate


def frozen_as_sent(
    model: nn.Module | ExportedProgram, captured: Sequence[CapturedUpdate]
) -> nn.Module | ExportedProgram:
    """Return the model, where layers of which no update holds anything require no gradient.

    Such as a backbone, of which clients train the head alone, or layers beside their adapters. The
    given model is not changed. A layer that is there in part stays, and is missed later.

    Args:
        captured: by name; lists do not show what is left out.
    """
    if not isinstance(model, nn.Module) or not captured:
        return model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    sent: set[str] = set()
    for update in captured:
        if not isinstance(update.tensors, Mapping):
            return model
        named = {str(name): None for name in update.tensors}
        sent |= without_wrappers(named, trained).keys()
    for names in shared_names(model):
        if sent & set(names):
            sent |= set(names)
    layers = {name.rpartition(".")[0] for name in sent}
    missing = [name for name in trained if name not in sent]
    missing = [name for name in missing if name.rpartition(".")[0] not in layers]
    if not missing or not sent & set(trained):
        return model
    partly = copy.deepcopy(model, computed_tensors(model))
    for name in missing:
        partly.get_parameter(name).requires_grad_(False)
    return partly


def kind_of_training(trained: Sequence[str], in_head: Sequence[str]) -> str:
    """Return what is trained, as part of a sentence.

    Args:
        trained: the user's names of the parameters that are.
        in_head: those of them in the head.

    >>> kind_of_training(["fc.weight", "fc.bias"], ["fc.weight", "fc.bias"])
    'the head alone'
    >>> kind_of_training(["a.lora_A.weight", "fc.bias"], ["fc.bias"])
    'low-rank adapters (LoRA) and some other parameters'
    """
    adapters = [name for name in trained if "lora_" in name.lower()]
    if adapters:
        others = "" if len(adapters) == len(trained) else " and some other parameters"
        return f"low-rank adapters (LoRA){others}"
    return "the head alone" if len(in_head) == len(trained) else "a part of the model"
