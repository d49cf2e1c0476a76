"""Facts about figures: what is drawn from records, and who may not be drawn where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

import leakbench.cli.main
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell
from leakbench.experiments.suite import SuiteEntry
from leakbench.federation.shared_model import deep_features
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Cost, Record
from leakbench.records.store import Store
from leakbench.reports.details import details
from leakbench.reports.figures.budget import figures as budget_figures
from leakbench.reports.reconstructions import (
    Block,
    chosen_cells,
    reconstruct,
    reconstruction_figure,
    refuse_real_individuals,
)
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server
from records import record_of, suite_entries

CHECKOUT = Path(leakbench.__file__).resolve().parents[2]

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "hat+smile"
model_parameters = { width = 4 }
clients = 2
rounds = 3
victim_share = 0.2
individuals = 12

[attack.feature]
parameters = { budget = 4 }

[attack.soft]
attack = "feature"
title = "Soft"
parameters = { budget = 5, labels = "joint" }

[attack.blind]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [1, 4, 12], seed = [0, 1] }

[[group]]
title = "By budget"
layout = "budget"
cell = { batch_size = 4 }
sweep = { attack.budget = [10, 100, 1000] }
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


Accuracy = Callable[[SuiteEntry, str], Estimate]
"""What a hand-made record says of a property."""


def growing(entry: SuiteEntry, name: str) -> Estimate:
    """60 % for controls; 50 % plus 10 for each tenfold budget for attacks, ± 5; glasses 2 more."""
    budget = entry.cell.attack_parameters.get("budget")
    value = 0.6 if budget is None else 0.4 + 0.1 * float(np.log10(budget))
    value += 0.02 * (name == "glasses")
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def record(entry: SuiteEntry, accuracy: Accuracy) -> Record:
    return record_of(
        entry,
        {name: accuracy(entry, name) for name in entry.cell.properties},
        main_task={"accuracy": 0.5, "most_frequent_class": 0.3},
        classes=4,
    )


def measured(cells: Sequence[SuiteEntry], accuracy: Accuracy = growing) -> list[Measured]:
    return [Measured(cell, record(cell, accuracy)) for cell in cells]


def only_figure(cells: Sequence[Measured]) -> Figure:
    (figure,) = budget_figures(cells).values()
    assert figure is not None
    figure.canvas.draw()
    return figure


def lines(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), np.round(line.get_ydata(), 6).tolist())
        for line in figure.axes[panel].lines
    }


def test_a_budget_figure_has_a_panel_a_property_and_a_line_an_attack(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    assert [ax.get_title() for ax in figure.axes] == ["gender", "glasses"]
    assert {ax.get_xscale() for ax in figure.axes} == {"log"}
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["10", "100", "1k"]
    for panel, more in enumerate((0, 2)):
        found = lines(figure, panel)
        assert list(found) == ["Proposed", "Soft", "Blind", "Oracle"]
        assert found["Proposed"] == ([10, 100, 1000], [50 + more, 60 + more, 70 + more])
        assert found["Soft"] == found["Proposed"]


def test_controls_are_horizontal_lines_that_differ(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    assert lines(figure, 0)["Blind"] == ([0, 1], [60, 60])
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert len({styles["Blind"], styles["Oracle"], styles["Proposed"]}) == 3


def test_a_band_shows_an_attack_s_interval(suite: str) -> None:
    (band, *_) = only_figure(measured(suite_entries(suite))).axes[0].collections
    corners = band.get_paths()[0].vertices
    for budget, value in ((10, 50), (100, 60), (1000, 70)):
        heights = corners[np.isclose(corners[:, 0], budget)][:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((value - 5, value + 5))


def test_every_interval_lies_within_the_axes(suite: str) -> None:
    low, high = only_figure(measured(suite_entries(suite))).axes[0].get_ylim()
    assert low < 45
    assert high > 77


def test_attacks_have_colours_of_their_own(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    colours = [to_hex(line.get_color()) for line in figure.axes[0].lines[:2]]
    assert len(set(colours)) == 2
    assert colours == [to_hex(line.get_color()) for line in figure.axes[1].lines[:2]]


def test_nothing_that_is_written_overlaps(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("Proposed", "Soft", "Blind", "Oracle"),
    ]
    assert figure._suptitle is not None
    boxes = [legend.get_window_extent(), figure._suptitle.get_window_extent()]
    boxes += [ax.get_tightbbox() for ax in figure.axes]
    for number, box in enumerate(boxes):
        assert box is not None
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)


def test_an_attack_whose_budget_is_fixed_is_a_line_across(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "attack.soft.budget=100")))
    assert lines(figure, 0)["Soft"] == ([0, 1], [60, 60])
    assert lines(figure, 0)["Proposed"][0] == [10, 100, 1000]


def test_a_line_breaks_where_a_cell_has_no_number(suite: str) -> None:
    def undefined_at_100(entry: SuiteEntry, name: str) -> Estimate:
        if entry.cell.attack_parameters.get("budget") == 100:
            return Estimate(value=None, low=None, high=None)
        return growing(entry, name)

    cells = measured(suite_entries(suite), undefined_at_100)
    cells = [Measured(m.entry, None) if m.entry.cell.attack == "oracle" else m for m in cells]
    found = lines(only_figure(cells), 0)
    budgets, values = found["Proposed"]
    assert budgets == [10, 100, 1000]
    assert np.isnan(values).tolist() == [False, True, False]
    assert "Oracle" not in found


def test_settings_that_a_group_sweeps_besides_have_panels_of_their_own(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "batch_size=1,4", "properties=gender")))
    assert [ax.get_title() for ax in figure.axes] == ["gender\nB = 1", "gender\nB = 4"]


def test_a_single_budget_can_be_drawn(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "attack.budget=100")))
    assert lines(figure, 0)["Proposed"] == ([100], [60])


def test_all_metrics_are_told_apart_by_what_was_swept(suite: str) -> None:
    cells = [m for m in measured(suite_entries(suite)) if m.entry.layout == "budget"]
    cells = [Measured(m.entry, with_cost(m.record)) for m in cells]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in details(cells).partition("## All")[0].splitlines()
        if line.startswith("|")
    ]
    assert rows[0][:5] == ["attack", "data set", "main task", "B", "budget"]
    assert [(row[0], row[4]) for row in rows[2:]] == [
        ("Proposed", "10"),
        ("Soft", "10"),
        ("Blind", "–"),
        ("Oracle", "–"),
        ("Proposed", "100"),
        ("Soft", "100"),
        ("Proposed", "1000"),
        ("Soft", "1000"),
    ]


def with_cost(record: Record | None) -> Record:
    assert record is not None
    cost = Cost(seconds=1, steps=1, peak_memory_mib=1)
    return record.model_copy(update={"cost": cost})


def test_groups_without_a_record_are_not_drawn(suite: str) -> None:
    assert budget_figures([Measured(cell, None) for cell in suite_entries(suite)]) == {
        "budget": None
    }


Run = Callable[..., tuple[int, str, str]]


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def is_svg(path: Path) -> bool:
    return ElementTree.fromstring(path.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def write_records(folder: Path, cells: Sequence[SuiteEntry]) -> None:
    store = Store(folder / "records")
    for cell in cells:
        store.write(record(cell, growing))


def test_the_command_draws_the_records_that_exist(run: Run, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_records(out, suite_entries(suite))
    code, printed, err = run("figure", "budget", suite, "--out", str(out))
    png, svg = (out / "figures" / f"small-budget.{ending}" for ending in ("png", "svg"))
    assert (code, err) == (0, "")
    assert printed == f"The figure is in {png}.\nThe figure is in {svg}.\n"
    assert is_png(png)
    assert is_svg(svg)
    before = png.read_bytes(), svg.read_bytes()
    run("figure", "budget", suite, "--out", str(out))
    assert (png.read_bytes(), svg.read_bytes()) == before


def test_several_groups_are_numbered(run: Run, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    group = SUITE[SUITE.index('[[group]]\ntitle = "By budget"') :]
    Path(suite).write_text(SUITE + group.replace("By budget", "Again"))
    write_records(out, suite_entries(suite))
    assert run("figure", "budget", suite, "--out", str(out))[0] == 0
    names = ["small-budget-1.png", "small-budget-2.png"]
    assert sorted(path.name for path in (out / "figures").glob("*.png")) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget", "SUITE"], r"no record of suite 'small' .*run `leakbench run .*small\.toml`"),
        (
            ["budget", "SUITE", "--only", "batch_size=12"],
            "no group with layout = .budget. .*--only",
        ),
        (["reconstructions", "SUITE", "--only", "attack=oracle"], "reconstructs images"),
        (["reconstructions", "SUITE", "--set", "attack.budgett=1"], "parameter 'budgett'"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(
    run: Run, suite: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    named = [suite if argument == "SUITE" else argument for argument in arguments]
    code, printed, err = run("figure", *named, "--out", str(out))
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*", err.splitlines()[-1])
    assert "Traceback" not in err
    assert not out.exists()


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
        for size, images in block.rows.items():
            torch.testing.assert_close(images, answers[size][:8])
            torch.testing.assert_close(images, true[:size] * 0.9)


def test_controls_are_not_drawn(suite: str, context: EvaluationContext) -> None:
    cells = [p for p in chosen_cells(suite_entries(suite)) if p.cell.attack in {"oracle", "blind"}]
    with pytest.raises(UsageError, match="none of the chosen attacks reconstructs images"):
        reconstruct(cells, context, lambda message: None)


def test_images_are_drawn_pixel_by_pixel_and_clamped(suite: str) -> None:
    image = torch.tensor([-0.5, 0.0, 0.5, 1.7]).view(1, 2, 2).expand(3, 2, 2)
    block = Block("Any", {1: image[None]})
    figure = reconstruction_figure("Title", suite_entries(suite)[0], image[None], [block])
    assert len(figure.images) == 2
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
