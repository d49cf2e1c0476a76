"""Figures of reconstructions: what is drawn, and that real individuals are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import leakbench.cli.main
from drawing import SUITE, is_png
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell
from leakbench.federation.shared_model import deep_features
from leakbench.reports.reconstructions import (
    Block,
    Row,
    chosen_cells,
    reconstruct,
    reconstruction_figure,
    refuse_real_individuals,
)
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server
from records import suite_entries

CHECKOUT = Path(leakbench.__file__).resolve().parents[2]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


def test_a_suite_without_a_table_2_has_no_reconstructions(suite: str) -> None:
    with pytest.raises(UsageError, match='layout = "table2", and there is none'):
        chosen_cells([cell for cell in suite_entries(suite) if cell.layout == "budget"])


def test_reconstructions_are_of_the_first_setting_at_each_batch_size(suite: str) -> None:
    found = chosen_cells(suite_entries(suite, "attack.lam=0.0,1.0"))
    assert {(p.cell.batch_size, p.cell.seed, p.swept["lam"]) for p in found} == {
        (1, 0, 0.0),
        (4, 0, 0.0),
        (12, 0, 0.0),
    }


@pytest.mark.parametrize("suite", ["table2", "fig6"])
def test_batch_sizes_with_other_numbers_of_individuals_are_drawn_too(suite: str) -> None:
    found = chosen_cells(suite_entries(suite))
    assert {p.cell.batch_size for p in found} == {1, 8, 32}
    assert len({(p.column, p.cell.batch_size) for p in found}) == len(found)


@pytest.mark.parametrize("amounts", ["individuals=12,24", "trainings=1,2", "attack_seeds=1,2"])
def test_how_much_is_measured_makes_no_other_reconstruction(suite: str, amounts: str) -> None:
    columns = [(p.column, p.cell.batch_size) for p in chosen_cells(suite_entries(suite))]
    found = chosen_cells(suite_entries(suite, amounts))
    assert [(p.column, p.cell.batch_size) for p in found] == columns


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> EvaluationContext:
    path = tmp_path_factory.mktemp("suite") / "small.toml"
    path.write_text(SUITE)
    return prepare(suite_entries(str(path))[0].cell.setup, None, "cpu", lambda message: None)


Answers = Mapping[int, Tensor]
"""Batch size → images of the individuals in true order."""


@pytest.fixture
def answers(context: EvaluationContext, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Let `feature` answer with the true images, a little darker, in reversed order."""
    true = {size: victim_batches(context, size, size)[0].images for size in (1, 4, 12)}
    darker = {size: images * 0.9 for size, images in true.items()}

    def infer(
        self: FeatureReconstruction,
        server: Server,
        observations: Sequence[Observation],
        progress: Callable[[float], None],
    ) -> list[AttackResult]:
        (observation,) = observations
        images = darker[observation.batch_size].flip(0)
        assert server.model is not None
        return [
            AttackResult(
                scores={name: torch.full((len(images),), 0.5) for name in server.properties},
                features=deep_features(server.model, images),
                images=images,
                steps=self.budget,
            )
        ]

    monkeypatch.setattr(FeatureReconstruction, "infer", infer)
    return darker


def test_a_reconstruction_stands_below_the_individual_to_whom_it_is_matched(
    suite: str, context: EvaluationContext, answers: Answers
) -> None:
    said: list[str] = []
    true, blocks = reconstruct(chosen_cells(suite_entries(suite)), context, said.append)
    assert [block.title for block in blocks] == [
        "Proposed, 4 gradient evaluations per batch",
        "Soft, 5 gradient evaluations per batch",
    ]
    assert said[:2] == ["Proposed, B = 1", "Soft, B = 1"]
    assert len(true) == 8
    for block in blocks:
        assert list(block.rows) == [1, 4, 12]
        for size, row in block.rows.items():
            torch.testing.assert_close(row.images, answers[size][:8])
            torch.testing.assert_close(row.images, true[:size] * 0.9)
            errors = (0.1 * true[:size]).square().mean((1, 2, 3))
            for mark, error in zip(row.marks, errors.tolist(), strict=True):
                decibels, cosine = mark.split(" dB, ")
                assert float(decibels) == pytest.approx(-10 * log10(error), abs=0.051)
                assert 0.5 < float(cosine) <= 1


def test_controls_are_not_drawn(suite: str, context: EvaluationContext) -> None:
    cells = [p for p in chosen_cells(suite_entries(suite)) if p.cell.attack in {"oracle", "blind"}]
    with pytest.raises(UsageError, match="none of the chosen attacks reconstructs images"):
        reconstruct(cells, context, lambda message: None)


def test_images_are_drawn_pixel_by_pixel_and_clamped(suite: str) -> None:
    image = torch.tensor([-0.5, 0.0, 0.5, 1.7]).view(1, 2, 2).expand(3, 2, 2)
    block = Block("Any", {1: Row(image[None], ["12.3 dB, 0.45"])})
    figure = reconstruction_figure("Title", suite_entries(suite)[0], image[None], [block])
    assert len(figure.images) == 2
    assert "12.3 dB, 0.45" in [text.get_text() for text in figure.texts]
    for drawn in figure.images:
        pixels = drawn.get_array()
        assert pixels is not None
        side = len(pixels) // 2
        assert pixels.shape == (2 * side, 2 * side, 3)
        corners = pixels[side // 2 :: side, side // 2 :: side, 0]
        assert corners.tolist() == [[0, 0], [128, 255]]
    figure.canvas.draw()
    shown = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    side = figure.images[0].get_array().shape[0]
    assert (shown == 128).all(-1).sum() >= 2 * (side // 2) ** 2


def test_the_command_draws_reconstructions_of_an_embedded_data_set_anywhere(
    run: Run, suite: str, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--device", "cpu", "--only", "batch_size=1,4"]
    code, printed, _ = run("figure", "reconstructions", suite, *arguments)
    path = out / "figures" / "small-reconstructions.png"
    assert code == 0
    assert printed == f"The figure is in {path}.\n"
    assert is_png(path)


def real(suite: str) -> Cell:
    return suite_entries(suite, "dataset=celeba")[0].cell


@pytest.mark.parametrize("folder", [".", "results/runs/figures", "not/there/yet"])
def test_real_individuals_are_not_drawn_into_the_checkout(suite: str, folder: str) -> None:
    with pytest.raises(UsageError, match=r"'celeba' shows real individuals.*outside of it"):
        refuse_real_individuals(real(suite), CHECKOUT / folder)


def test_real_individuals_are_not_drawn_into_a_work_tree(suite: str, tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / ".git").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tree / "deeper")
    for folder in (tree, tree / "out" / "figures", tmp_path / "link", outside / ".." / "tree"):
        with pytest.raises(UsageError, match=f"inside the work tree {re.escape(str(tree))};"):
            refuse_real_individuals(real(suite), folder)
    refuse_real_individuals(real(suite), outside)


def test_a_worktree_s_git_file_counts_too(suite: str, tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    with pytest.raises(UsageError, match="inside the work tree"):
        refuse_real_individuals(real(suite), tmp_path / "figures")


def test_real_individuals_are_refused_before_any_work(
    run: Run, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    arguments: list[Any] = ["figure", "reconstructions", suite, "--set", "dataset=celeba"]
    code, printed, err = run(*arguments)
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"leakbench: data set 'celeba' shows real individuals, .*\n", err)
    code, _, err = run(*arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert "no --data-root given" in err
