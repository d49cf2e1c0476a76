"""Options of `leakbench audit` for the loss, its labels, the logits, batch sizes and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from leakbench import Report
from leakbench.auditing import from_files
from leakbench.auditing.image_files import read_labelled_images
from leakbench.base.errors import UsageError
from tables import individuals, losing, tabular

RATE, DECAY = 0.05, 0.01

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, rows):
        logits = self.layers(rows)
        return {"score": logits, "again": logits + 1}
"""

GIVEN = (
    *("audit", "--model", "net.py:Net", "--weights", "weights.safetensors"),
    *("--updates", "updates", "--auxiliary", "aux.safetensors", "--property", "old"),
    *("--kind", "weights", "--learning-rate", str(RATE), "--device", "cpu"),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Weights of two clients after a step with weight decay, on sets of labels."""
    model = tabular()
    state = {f"layers.{name}": value for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    (tmp_path / "net.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "updates").mkdir()
    draw = torch.Generator().manual_seed(0)
    aux, victims = individuals("rows", 60, seed=1), individuals("rows", 8, seed=2)
    sets = torch.randint(2, (60, 4), generator=draw).float()
    people = {"inputs": aux.images, "labels": sets, "old": aux.properties["old"]}
    save_file({n: v.clone() for n, v in people.items()}, tmp_path / "aux.safetensors")
    criterion = nn.BCEWithLogitsLoss(reduction="sum")
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 8))):
        gradient = losing(model, criterion, victims.images[rows], sets[rows])
        after = {
            f"layers.{name}": value - RATE * (gradient[name] + DECAY * value)
            for name, value in model.state_dict().items()
        }
        save_file(after, tmp_path / "updates" / f"{name}.safetensors")
    return tmp_path


def test_a_loss_over_sets_of_labels_with_weight_decay_is_audited(run: Run, files: Path) -> None:
    code, out, err = run(
        *GIVEN,
        *("--loss", "binary", "--reduction", "sum", "--logits", "score", "--quick"),
        *("--batch-size", "3", "--batch-size", "5", "--weight-decay", str(DECAY)),
        *("--attack", "mask_demixing", "--out", "found"),
    )
    assert code == 0, err
    assert "certifies the exact deep feature of 8 of 8 individuals" in out
    assert "Clients compute the sum binary cross-entropy of 4 logits" in out
    assert "1 attack: about" in err and "at most 1 min 30 s are given" in err
    report = Report.model_validate_json((files / "found" / "audit.json").read_text("utf-8"))
    assert [update.size for update in report.updates] == [3, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--loss", "squared", "--class-weight", "2"), "--class-weight is of the cross-entropies"),
        (("--label-smoothing", "1.5"), "--label-smoothing must be in [0, 1), not 1.5"),
        (("--logits", "logit"), "returns no tensor 'logit', but 'score' of shape (3, 4)"),
        (("--time-limit", "0", "--logits", "score"), "time_limit must be minutes above 0"),
        (("--weight-decay", "-1"), "weight_decay"),
        (
            (
                "--weight-decay",
                "0.1",
                "--local-steps",
                "2",
                "--logits",
                "score",
                "--loss",
                "binary",
            ),
            "is of 2 local steps with weight decay, which is taken off a single step only",
        ),
    ],
)
def test_options_that_do_not_fit_are_a_sentence_and_code_2(
    run: Run, files: Path, options: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*GIVEN, "--batch-size", "4", *options)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_options_reach_the_audit(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stop(*_: Any, **arguments: Any) -> None:
        given.update(arguments)
        raise UsageError("stopped")

    monkeypatch.setattr(from_files, "audit", stop)
    assert run(*GIVEN, "--class-weight", "1", "--class-weight", "2", "--batch-size", "4")[0] == 2
    assert isinstance(given["loss"], nn.CrossEntropyLoss)
    assert given["loss"].weight is not None and given["loss"].weight.tolist() == [1.0, 2.0]
    assert given["batch_size"] == 4
    assert run(*GIVEN)[0] == 2
    assert (given["loss"], given["batch_size"], given["logits"]) == (None, None, None)


def test_labels_of_a_csv_file_may_be_several_numbers(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    table = tmp_path / "people.csv"
    table.write_text("file,label,old\n0.png,1|0|0.5,1\n0.png,0|1|1,0\n", encoding="utf-8")
    labels = read_labelled_images(tmp_path, None, "D_aux").labels
    assert labels is not None and labels.tolist() == [[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]]
    table.write_text("file,label,old\n0.png,1|0,1\n0.png,1,0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"numbers with \| between them, as many in each line"):
        read_labelled_images(tmp_path, None, "D_aux")
