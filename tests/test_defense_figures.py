"""Facts about the figures of defenses, of λ and of features: what they draw, and what they need."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drawing import DEFENSES_BY_LEVEL, HEAD, LAMBDAS
from leakbench.base.registry import DEFENSES
from leakbench.experiments.expansion import SuiteEntry
from leakbench.federation.defenses.none import NoDefense
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import DefenseMetrics, Record
from leakbench.records.store import Store
from leakbench.reports.advantage import advantage_over
from leakbench.reports.figures import ablation, defense, tradeoff
from records import record_of, suite_entries

UNDEFENDED, FREQUENT = 0.6, 0.3


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(HEAD + DEFENSES_BY_LEVEL + LAMBDAS)
    return str(path)


def sigma_of(entry: SuiteEntry) -> float:
    sigma: float = entry.cell.defense_parameters.get("sigma", 0.0)
    return sigma


def accuracy(entry: SuiteEntry) -> float:
    """80 % undefended, 100·σ less, which costs the adaptive attack half; 5 less at B = 8."""
    cell = entry.cell
    fewer = 0.05 * (cell.batch_size == 8)
    if cell.attack == "blind":
        return 0.55 + fewer
    if cell.attack == "labels":
        return 0.5
    if cell.attack == "oracle":
        return 0.9
    if "lam" in entry.swept:
        return 0.7 + 0.1 * float(entry.swept["lam"]) - fewer
    return 0.8 - sigma_of(entry) * (0.5 if "defense" in cell.grant else 1) - fewer


def around(value: float, reach: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach)


def record(entry: SuiteEntry) -> Record:
    cell, sigma = entry.cell, sigma_of(entry)
    cost = DefenseMetrics(
        distortion=around(30 * sigma),
        utility=around(UNDEFENDED - sigma),
        utility_lost=around(sigma),
    )
    return record_of(
        entry,
        dict.fromkeys(cell.properties, around(accuracy(entry))),
        feature_cosine=around(0.95, 0.01),
        swapped_cosine=around(0.4 + 0.01 * cell.batch_size, 0.01),
        main_task={"accuracy": UNDEFENDED, "most_frequent_class": FREQUENT},
        defense=None if cell.defense == "none" else cost,
        classes=4,
    )


def measured(cells: Sequence[SuiteEntry]) -> list[Measured]:
    return [Measured(cell, record(cell)) for cell in cells]


def drawn(figures: Mapping[str, Figure | None], name: str) -> Figure:
    figure = figures[name]
    assert figure is not None
    figure.canvas.draw()
    return figure


Line = list[tuple[float, float]]


def lines(ax: Axes) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in ax.lines:
        points = zip(line.get_xdata(), np.round(line.get_ydata(), 6).tolist(), strict=True)
        found.setdefault(str(line.get_label()), []).append(list(points))
    return found


def heights(ax: Axes) -> dict[str, list[list[float]]]:
    """Each label's pieces of line, by their heights alone."""
    return {label: [[y for _, y in piece] for piece in of] for label, of in lines(ax).items()}


def test_a_defense_figure_is_drawn_for_each_parameter_with_several_levels(suite: str) -> None:
    found = defense.figures(measured(suite_entries(suite)))
    assert list(found) == ["defense-gaussian-sigma-gender", "defense-gaussian-sigma-glasses"]


def test_accuracy_stands_over_levels_none_and_0_apart(suite: str) -> None:
    figure = drawn(defense.figures(measured(suite_entries(suite))), "defense-gaussian-sigma-gender")
    at_1, at_8 = figure.axes[:2]
    assert [ax.get_title() for ax in (at_1, at_8)] == ["B = 1", "B = 8"]
    assert heights(at_1)["Proposed"] == [[80], [80], [79, 70]]
    assert heights(at_1)["Adaptive"] == [[80], [80], [79.5, 75]]
    assert heights(at_8)["Proposed"] == [[75], [75], [74, 65]]
    assert [x for x, _ in lines(at_1)["Proposed"][2]] == [0.01, 0.1]
    none, zero = (lines(at_1)["Proposed"][piece][0][0] for piece in (0, 1))
    assert none < zero < 0.01
    assert heights(at_8)["Blind"] == [[60, 60]]


def test_a_centrally_trained_model_has_a_line_of_its_own(suite: str) -> None:
    def beside(cell: SuiteEntry) -> Record:
        found = record(cell)
        assert found.metrics is not None
        task = found.metrics.main_task | {"central": 0.9}
        return found.model_copy(
            update={"metrics": found.metrics.model_copy(update={"main_task": task})}
        )

    cells = [Measured(cell, beside(cell)) for cell in suite_entries(suite)]
    below = drawn(defense.figures(cells), "defense-gaussian-sigma-gender").axes[2]
    assert heights(below)["centrally trained"] == [[90, 90]]
    assert below.get_ylim()[1] > 90


def test_what_stands_alone_does_not_hide_another(suite: str) -> None:
    figure = drawn(defense.figures(measured(suite_entries(suite))), "defense-gaussian-sigma-gender")
    found = lines(figure.axes[0])
    assert found["Proposed"][0][0][0] != found["Adaptive"][0][0][0]


def test_utility_and_change_stand_below_the_same_levels(suite: str) -> None:
    figure = drawn(defense.figures(measured(suite_entries(suite))), "defense-gaussian-sigma-gender")
    above, below = figure.axes[0], figure.axes[2]
    assert above.get_xlim() == below.get_xlim()
    assert heights(below)["utility"] == [[60], [60], [59, 50]]
    assert heights(below)["utility, undefended"] == [[60, 60]]
    assert heights(below)["most frequent class"] == [[30, 30]]
    assert "centrally trained" not in heights(below)
    ticks = [label.get_text() for label in below.get_xticklabels()]
    assert ticks == ["none\n0", "0\n0", "0.01\n0.3", "0.1\n3"]


def test_none_stands_at_the_end_that_changes_least(suite: str) -> None:
    def inverse(each: SuiteEntry) -> Record:
        made = record(each)
        if made.metrics is None or made.metrics.defense is None:
            return made
        cost = made.metrics.defense.model_copy(update={"distortion": around(1 - sigma_of(each))})
        metrics = made.metrics.model_copy(update={"defense": cost})
        return made.model_copy(update={"metrics": metrics})

    cells = suite_entries(suite, only=["attack=feature"])
    figures = defense.figures([Measured(each, inverse(each)) for each in cells])
    below = drawn(figures, "defense-gaussian-sigma-gender").axes[2]
    assert [label.get_text() for label in below.get_xticklabels()][-1] == "none\n0"


def test_other_parameters_have_panels_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    swept = DEFENSES_BY_LEVEL.replace("batch_size = [1, 8]", "batch_size = [1, 8]\nseed = [0, 1]")
    path.write_text(HEAD + swept)
    figure = drawn(
        defense.figures(measured(suite_entries(str(path)))), "defense-gaussian-sigma-gender"
    )
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [
        *("seed = 0, B = 1", "seed = 1, B = 1", "seed = 0, B = 8", "seed = 1, B = 8"),
    ]


def test_a_level_that_is_not_measured_is_left_out(suite: str) -> None:
    cells = measured(suite_entries(suite))
    cells = [Measured(m.entry, None) if sigma_of(m.entry) == 0.01 else m for m in cells]
    figure = drawn(defense.figures(cells), "defense-gaussian-sigma-gender")
    assert heights(figure.axes[0])["Proposed"] == [[80], [80], [70]]


def test_only_levels_that_are_numbers_are_drawn_over(
    suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Steps(NoDefense):
        sigma: int | None = None

    monkeypatch.setitem(DEFENSES._plugins, "gaussian", Steps)
    text = HEAD + DEFENSES_BY_LEVEL.replace('"gaussian", sigma = 0.01 }', '"gaussian" }')
    Path(suite).write_text(text.replace("sigma = 0.1 },", "sigma = 10 },"))
    cells = suite_entries(suite, only=["attack=blind"])
    assert {p.cell.defense_parameters.get("sigma") for p in cells} == {None, 0, 10, 0.1}
    found = defense.figures([Measured(p, None) for p in cells])
    assert list(found) == ["defense-gaussian-sigma-gender", "defense-gaussian-sigma-glasses"]


def test_figures_of_two_groups_do_not_take_each_other_s_name(suite: str) -> None:
    noise = DEFENSES_BY_LEVEL[: DEFENSES_BY_LEVEL.index('[[group]]\ntitle = "Others"')]
    Path(suite).write_text(HEAD + noise + noise.replace("Noise", "Again"))
    found = defense.figures(measured(suite_entries(suite)))
    stems = [f"defense-gaussian-sigma-{name}" for name in ("gender", "glasses")]
    assert list(found) == [*stems, *(f"{stem}-2" for stem in stems)]


def test_defenses_without_a_record_are_not_drawn(suite: str) -> None:
    found = defense.figures([Measured(each, None) for each in suite_entries(suite)])
    assert set(found.values()) == {None}
    assert len(found) == 2


def test_the_strongest_attack_is_set_against_the_utility_lost(suite: str) -> None:
    found = tradeoff.figures(measured(suite_entries(suite)))
    assert list(found) == ["tradeoff-B1", "tradeoff-B8"]
    figure = drawn(found, "tradeoff-B8")
    assert [ax.get_title() for ax in figure.axes] == ["gender", "glasses"]
    points = {k: v for k, v in lines(figure.axes[0]).items() if not k.startswith("_")}
    rounded = {k: [(round(x, 6), y) for x, y in of] for k, (of,) in points.items()}
    assert rounded == {
        "none": [(0, 15)],
        "gaussian": [(0, 15), (1, 14.5), (10, 10)],
        "laplace (sigma = 0.1)": [(10, 10)],
    }


def test_an_interval_of_leakage_joins_those_of_attack_and_control() -> None:
    attack, blind = Estimate(value=0.8, low=0.77, high=0.84), around(0.6, 0.03)
    found = advantage_over(attack, Estimate(value=0.6, low=0.56, high=0.64))
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.2, 0.2 - 0.05, 0.2 + np.hypot(0.04, 0.04)), abs=1e-6
    )
    # Without doubt about the control it is the attack's own, moved.
    certain = advantage_over(attack, around(0.6, 0))
    assert (certain.low, certain.high) == pytest.approx((0.17, 0.24))
    assert advantage_over(attack, blind).low < 0.17


def test_the_ends_of_a_defense_are_told_by_the_numbers_that_differ(suite: str) -> None:
    figure = drawn(tradeoff.figures(measured(suite_entries(suite))), "tradeoff-B1")
    assert {text.get_text() for text in figure.axes[0].texts} == {"0", "0.1"}


def test_an_attack_on_some_defenses_counts_there_and_the_title_says_so(suite: str) -> None:
    cells = measured(suite_entries(suite))
    without = [
        m for m in cells if not (m.entry.column == "Adaptive" and m.entry.cell.defense == "laplace")
    ]
    found = tradeoff.figures(without)
    figure = drawn(found, "tradeoff-B8")
    assert heights(figure.axes[0])["gaussian"] == [[15, 14.5, 10]]
    assert heights(figure.axes[0])["laplace (sigma = 0.1)"] == [[5]]
    assert figure._suptitle is not None
    title = " ".join(figure._suptitle.get_text().split())
    assert "the strongest of Proposed; Adaptive (under 4 of 5);" in title


def test_there_is_no_leakage_without_the_control(suite: str) -> None:
    cells = measured(suite_entries(suite, only=["attack=feature,adaptive,oracle"]))
    assert tradeoff.figures(cells) == {}


def test_accuracy_and_cosine_stand_over_lambda_by_batch_size(suite: str) -> None:
    figure = drawn(ablation.figures(measured(suite_entries(suite))), "ablation")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["gender", "glasses", "feature cosine"]
    found = heights(figure.axes[0])
    assert found["B = 1"] == [[70], [71, 80]]
    assert found["B = 8"] == [[65], [66, 75]]
    assert found["Blind, B = 1"] == [[55, 55]]
    assert found["Blind, B = 8"] == [[60, 60]]
    assert found["Oracle"] == [[90, 90]]
    assert heights(figure.axes[2])["B = 8"] == [[0.95], [0.95, 0.95]]
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "0.1", "1"]


def test_each_cosine_over_lambda_has_its_swapped_cosine_beside_it(suite: str) -> None:
    figure = drawn(ablation.figures(measured(suite_entries(suite))), "ablation")
    found = heights(figure.axes[2])
    assert found["B = 1, swapped cosine"] == [[0.41], [0.41, 0.41]]
    assert found["B = 8, swapped cosine"] == [[0.48], [0.48, 0.48]]
    assert not any("swapped" in label for label in heights(figure.axes[0]))
    assert not any("Oracle, " in label or "Blind, swapped" in label for label in found)
    styles = {line.get_label(): line for line in figure.axes[2].lines}
    swapped = styles["B = 8, swapped cosine"]
    assert swapped.get_color() == styles["B = 8"].get_color()
    # Not dashed: dashed lines are controls of their own.
    assert (swapped.get_linestyle(), swapped.get_marker()) == ("-", "")
    assert styles["B = 8"].get_marker() not in ("", "None")
    (legend,) = figure.legends
    assert "B = 8, swapped cosine" in [text.get_text() for text in legend.get_texts()]


def test_the_ablation_of_figure_6_has_a_line_for_every_batch_size() -> None:
    figure = drawn(ablation.figures(measured(suite_entries("fig6"))), "ablation")
    found = heights(figure.axes[0])
    assert {"B = 1", "B = 8", "B = 32"} <= set(found)
    assert all(len(piece) == 4 for piece in (found[f"B = {size}"][1] for size in (1, 8, 32)))


def test_an_ablation_without_a_number_is_not_drawn(suite: str) -> None:
    cells = [
        m if m.entry.cell.attack in {"blind", "oracle"} else Measured(m.entry, None)
        for m in measured(suite_entries(suite))
    ]
    assert ablation.figures(cells) == {"ablation": None}


def test_controls_of_a_batch_size_have_its_colour(suite: str) -> None:
    figure = drawn(ablation.figures(measured(suite_entries(suite))), "ablation")
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours["Blind, B = 8"] == colours["B = 8"] != colours["B = 1"]
    assert colours["Oracle"] not in (colours["B = 1"], colours["B = 8"])


FIGURES: dict[str, Callable[[list[Measured]], Mapping[str, Figure | None]]] = {
    "defense": defense.figures,
    "tradeoff": tradeoff.figures,
    "ablation": ablation.figures,
}


@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_that_is_written_overlaps(suite: str, kind: str) -> None:
    for name, figure in FIGURES[kind](measured(suite_entries(suite))).items():
        assert figure is not None
        figure.canvas.draw()
        (legend,) = figure.legends
        assert figure._suptitle is not None
        boxes = [legend.get_window_extent(), figure._suptitle.get_window_extent()]
        boxes += [ax.get_tightbbox() for ax in figure.axes if ax.axison]
        for number, box in enumerate(boxes):
            assert box is not None
            assert not any(box.overlaps(other) for other in boxes[:number]), name
            assert figure.bbox.contains(box.x0, box.y0)
            assert figure.bbox.contains(box.x1, box.y1)


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("defense", ["defense-gaussian-sigma-gender", "defense-gaussian-sigma-glasses"]),
        ("tradeoff", ["tradeoff-B1", "tradeoff-B8"]),
        ("ablation", ["ablation"]),
    ],
)
def test_the_command_draws_png_and_svg_from_records(
    run: Run, suite: str, tmp_path: Path, kind: str, names: list[str]
) -> None:
    out = tmp_path / "out"
    for cell in suite_entries(suite):
        Store(out / "records").write(record(cell))
    code, printed, err = run("figure", kind, suite, "--out", str(out))
    assert (code, err) == (0, "")
    files = [out / "figures" / f"small-{name}.{e}" for name in names for e in ("png", "svg")]
    assert printed == "".join(f"The figure is in {path}.\n" for path in files)
    assert sorted((out / "figures").iterdir()) == sorted(files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["defense"], r"no record of suite 'small' .*run `leakbench run .*small\.toml`"),
        (["tradeoff"], "no record of suite 'small'"),
        (["ablation"], "no record of suite 'small'"),
        (
            ["defense", "--only", "defense=none,laplace"],
            "no group with layout = .defense. that sweeps a parameter of one .*--only",
        ),
        (
            ["tradeoff", "--only", "attack=feature"],
            "the control `labels`, and an attack, to draw",
        ),
        (["ablation", "--only", "attack=oracle"], r"no group that sweeps .attack\.lam. to draw"),
        (["features", "--set", "rounds=0"], "trains for 0 rounds; pass --set rounds=1000"),
        (["features", "--set", "dataset=celeba"], "no --data-root given"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(
    run: Run, suite: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    kind, *options = arguments
    code, printed, err = run("figure", kind, suite, *options, "--out", str(tmp_path / "out"))
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*", err.splitlines()[-1])
    assert not (tmp_path / "out").exists()
