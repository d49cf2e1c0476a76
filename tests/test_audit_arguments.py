"""Arguments of a wrong type are refused in a sentence, before any work; so are places of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditing import gradients, in_batches, net, people
from leakbench import audit
from leakbench.auditing import from_files
from leakbench.auditing.checked_arguments import batch_sizes
from leakbench.base.errors import UsageError

AUX, FOUR = people(12, seed=1), people(4, seed=2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "net.py:Net"}, "model is of type str; give a torch.nn.Module"),
        ({"model": net().state_dict()}, "model is of type OrderedDict; give a torch.nn.Module"),
        ({"split": net().features}, "split is a Sequential; give the name of a submodule, such as"),
        ({"updates": [{"weight": torch.ones(2)}]}, "updates is a list of dict; give a dict of"),
        ({"updates": 7}, "updates is of type int; give a dict of the updates by client"),
        (
            {"auxiliary": (AUX.images, AUX.labels)},
            "auxiliary is of type tuple; give LabelledImages",
        ),
        (
            {"auxiliary": replace(AUX, images=AUX.images.numpy())},
            "images of D_aux is of type ndarr",
        ),
        (
            {"auxiliary": replace(AUX, labels=[0] * 12)},
            "labels of D_aux is of type list; make it a",
        ),
        (
            {"auxiliary": replace(AUX, properties=["bright"])},
            "properties of D_aux are of type list",
        ),
        ({"truth": replace(FOUR, properties={"bright": [1, 0, 1, 0]})}, "'bright' of the truth is"),
        ({"truth": [1]}, "truth is of type list; give LabelledImages"),
        (
            {"loss": "cross-entropy"},
            r"loss is of type str; give a loss such as nn.CrossEntropyLoss",
        ),
        ({"training": FOUR}, "training is of type LabelledImages; give FederatedTraining"),
        ({"pixel_mean": 0.5}, "pixel_mean is of type float; give a list of one number"),
        ({"batch_size": 2.5}, "batch_size is 2.5; give a whole number, or a list"),
        ({"batch_size": "4"}, "batch_size is '4'; give a whole number, or a list"),
        ({"batch_size": 0}, "batch_size: "),
        ({"budget": 0}, "budget is 0; give a whole number of gradient evaluations above 0"),
        ({"budget": "many"}, "budget is of type str; give a whole number"),
        ({"time_limit": "2"}, "time_limit is of type str; give minutes above 0"),
        ({"time_limit": float("nan")}, "time_limit must be minutes above 0, not nan"),
        ({"name": 3}, "name is of type int; give the model's name as text"),
        ({"attacks": 3}, "attacks is of type int; give a list of names"),
        ({"defenses": [None]}, "a defense is of type NoneType; give a name"),
        ({"defense": "gaussian"}, "defense is of type str; give a table"),
        ({"label_names": "abcd"}, r'label_names="abcd" is one text; give a list'),
        ({"image_size": (8, 8)}, "image_size is of type tuple; give a whole number of pixels"),
        ({"seed": -1}, "seed: "),
        (
            {"split": ""},
            'split is empty; give the name of a submodule, such as "features", or None',
        ),
        ({"image_size": 10**9}, "image_size is 1000000000; give the height and width of images"),
        ({"pixel_deviation": [float("nan")]}, "pixel_deviation holds nan; give finite numbers"),
        ({"device": 3.5}, "device 3.5 is not available here"),
    ],
)
def test_arguments_of_a_wrong_type_are_a_sentence(changed: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {
        "model": net(),
        "updates": gradients(net(), FOUR, 4),
        "auxiliary": AUX,
        "properties": ["bright"],
        "truth": in_batches(FOUR, 4),
    }
    with pytest.raises(UsageError, match=said):
        audit(**(given | changed))


def test_integers_of_numpy_and_pytorch_are_batch_sizes() -> None:
    assert batch_sizes(np.int64(4)) == 4
    assert batch_sizes(np.array([2, 3])) == [2, 3]
    assert batch_sizes(torch.tensor([2, 3])) == [2, 3]
    assert batch_sizes(torch.tensor(4)) == 4


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "taken"), "--out taken is a file; name a folder"),
        (("--out", "taken/audit"), "is a file, and no folder can be in it"),
        (("--out", "odd"), "--out odd holds a folder audit.json; name another folder"),
        (("--sarif", "odd"), "--sarif odd is a folder; name a file"),
        (("--sarif", "taken/leaks.sarif"), "is a file, and no folder can be in it"),
    ],
)
def test_places_of_files_are_checked_before_any_work(
    run: Run, tmp_path: Path, options: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> nn.Module:
        raise AssertionError("work was begun")

    monkeypatch.setattr(from_files, "load_model", loaded)
    (tmp_path / "taken").touch()
    (tmp_path / "odd" / "audit.json").mkdir(parents=True)
    given = ("audit", "--model", "net.py:Net", "--auxiliary", "aux", "--property", "bright")
    code, out, err = run(*given, *options)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "taken"]
