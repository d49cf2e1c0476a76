"""Audits from files, by the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from auditing import (
    audited,
    gradients,
    in_batches,
    net,
    people,
)
from leakbench import LabelledImages, Report
from leakbench.attacks.newton_demixing import NewtonDemixing


def test_paths_may_be_text(files: Path) -> None:
    report = audited(net(), str(files / "updates"), auxiliary=str(files / "aux"), batch_size=4)
    assert report.attacks[0].certified == 8


def test_a_program_is_audited_from_files(run: Run, files: Path) -> None:
    example = (people(3).images,)
    program = torch.export.export(
        net().eval(), example, dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, files / "net.pt2")
    arguments = [*changed(("--model", "net.pt2"), ("--attack", "mask_demixing"))]
    del arguments[arguments.index("--weights") : arguments.index("--weights") + 2]
    code, out, err = run(*arguments, "--batch-size", "4", "--budget", "20")
    assert code == 0, err
    assert "certifies the exact deep feature of 8 of 8 individuals" in out


Run = Callable[..., tuple[int, str, str]]


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * 16, 64), nn.ReLU(), nn.Linear(64, 4)
        )

    def forward(self, images):
        return self.head(self.features(images))
"""


def write_folder(folder: Path, of: LabelledImages) -> None:
    """Images and a CSV file."""
    folder.mkdir()
    assert of.labels is not None
    updates = of.updates or [""] * len(of)
    lines = ["file,label,identity,update,bright"]
    for row, image in enumerate(of.images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{row}.png")
        present = int(of.properties["bright"][row])
        lines.append(f"{row}.png,{of.labels[row]},{folder.name} {row},{updates[row]},{present}")
    (folder / "people.csv").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    model = net()
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "updates").mkdir()
    # As the images are once they are written and read again.
    victims = people(8, seed=2)
    victims = replace(victims, images=(victims.images * 255).round() / 255)
    for name, tensors in gradients(model, victims, 4).items():
        save_file(tensors, tmp_path / "updates" / f"{name}.safetensors")
    write_folder(tmp_path / "aux", people(60, seed=1))
    write_folder(tmp_path / "truth", in_batches(victims, 4))
    return tmp_path


GIVEN = (
    *("audit", "--model", "net.py:Net", "--weights", "weights.safetensors"),
    *("--split", "features", "--updates", "updates", "--auxiliary", "aux"),
    *("--property", "bright", "--device", "cpu"),
)


def test_the_command_audits_what_lies_in_files(run: Run, files: Path) -> None:
    code, out, err = run(
        *GIVEN,
        *("--truth", "truth", "--attack", "mask_demixing", "--budget", "20"),
        *("--defense", "gaussian:sigma=10.0", "--out", "found"),
    )
    assert code == 0, err
    assert "- Mask demixing certifies the exact deep feature of 8 of 8 individuals" in out
    assert f"The report is in {Path('found/audit.html')}" in out
    assert "Limitations:\n- The truth is known of fewer than" in out
    report = Report.model_validate_json((files / "found" / "audit.json").read_text("utf-8"))
    assert report.updates[0].mismatch is not None and report.updates[0].mismatch < 1e-4
    assert report.updates[0].individuals[0].name == "0.png"
    assert [defense.name for defense in report.defenses] == ["none", "gaussian"]


def test_after_ctrl_c_the_report_has_what_is_finished(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(NewtonDemixing, "infer", interrupt)
    given = ("--truth", "truth", "--budget", "20", "--out", "found")
    code, out, _ = run(*GIVEN, *given, "--attack", "mask_demixing", "--attack", "newton_demixing")
    assert code == 130
    assert "certifies the exact deep feature of 8 of 8 individuals" in out
    assert "Limitations:\n- The audit was interrupted" in out
    assert (files / "found" / "audit.html").is_file()


def changed(*pairs: tuple[str, str]) -> tuple[str, ...]:
    """The arguments with the values of some options changed, or added."""
    arguments = list(GIVEN)
    for option, value in pairs:
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    return tuple(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (GIVEN, "the batch size of update 'client 0' is not known"),
        (changed(("--split", "featurs")), "no submodule 'featurs' to split after; did you mean fe"),
        (changed(("--property", "glasses")), "D_aux has no property 'glasses'; it has bright"),
        (
            changed(("--batch-size", "4"), ("--kind", "difference")),
            "is of kind difference, which scales with the learning rate; give learning_rate",
        ),
        (changed(("--model", "nets.py:Net")), "model file nets.py not found"),
        (changed(("--model", "net.py:Nett")), "net.py has no 'Nett'"),
        (changed(("--model", "net.pth")), "may be a pickle, which is never loaded"),
        (changed(("--weights", "none.safetensors")), "weights file none.safetensors not found"),
        (changed(("--auxiliary", "nowhere")), "D_aux nowhere not found"),
        (changed(("--defense", "gaussian:sigma")), "is not of the form PARAMETER=VALUE"),
        (changed(("--defense", "gaussian:sigma=-1")), "defense 'gaussian': sigma"),
        (changed(("--training", "aux")), "utility is measured on the truth"),
    ],
)
def test_wrong_arguments_are_a_sentence_and_code_2(
    run: Run, files: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("leakbench: ")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label,bright\n0.png,0,maybe\n", "'maybe' is not 1 or 0"),
        ("file,label,bright\n0.png,red,1\n", "column `label`"),
        ("file,label,bright\nnot.png,0,1\n", "cannot be decoded"),
        ("file,label,bright\n../0.png,0,1\n", "lies outside"),
        ("name,bright\n0.png,1\n", "needs a column `file`"),
    ],
)
def test_a_folder_of_people_that_is_malformed_is_a_sentence(
    run: Run, files: Path, text: str, said: str
) -> None:
    (files / "aux" / "people.csv").write_text(text, encoding="utf-8")
    code, _, err = run(*changed(("--batch-size", "4")))
    assert code == 2
    assert said in err.splitlines()[-1]


def test_weights_that_nobody_named_are_pointed_out(run: Run, files: Path) -> None:
    arguments = [*changed(("--batch-size", "4"), ("--attack", "mask_demixing"))]
    del arguments[arguments.index("--weights") : arguments.index("--weights") + 2]
    code, _, err = run(*arguments, "--budget", "5")
    assert code == 0, err
    assert err.startswith("no --weights: those of net.py:Net as it is created are used")


def test_images_of_the_audit_are_left_in_no_cache(run: Run, files: Path, own_cache: Path) -> None:
    code, _, err = run(*changed(("--batch-size", "4"), ("--attack", "mask_demixing")))
    assert code == 0, err
    assert not list(own_cache.glob("images/*"))
