"""Facts about a suite's columns: groups, titles and presets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from leakbench.base.documents import as_text, plain
from leakbench.base.errors import UsageError
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.plugin_catalogue import description
from leakbench.experiments.suite import load_suite, suite_names
from leakbench.records.measured import Measured
from leakbench.reports.rows import LAYOUTS, leading_values, varying_settings
from records import suite_entries
from suite_files import (
    CELL,
    COLUMNS,
    GROUP,
    PRESETS,
    SECOND_GROUP,
    SMALL,
    TITLE,
    cells,
    keys,
    of_group,
    parameters,
    toml,
)


def test_what_each_data_set_has_of_its_own_makes_no_column(write: Any) -> None:
    birds = SECOND_GROUP.replace("vehicles", "birds").replace("wheel", "beak")
    birds = birds.replace('main_task = "cargo"', 'main_task = "crest", individuals = 64')
    entry = expand(*load_suite(write(TITLE + CELL + COLUMNS + SECOND_GROUP + birds)))
    assert {p.cell.individuals for p in entry} == {256, 64}
    assert varying_settings(entry, LAYOUTS["table1"]) == []
    assert "individuals" in varying_settings(entry, LAYOUTS["table2"])


def test_a_group_without_columns_has_those_of_the_suite(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP))
    found = [p.column for p in of_group(suite, "By data set")]
    assert found == ["Proposed", "Joint", "Prior", "Oracle"]


def test_a_group_with_columns_has_only_these_in_its_own_order(write: Any) -> None:
    text = SMALL + SECOND_GROUP + "[group.attack.prior]\n[group.attack.feature]\n"
    _, suite = load_suite(write(text))
    assert [p.column for p in of_group(suite, "By data set")] == ["Prior", "Proposed"]
    assert len(of_group(suite, "By batch size")) == 8


def test_what_a_group_gives_a_column_is_laid_over_the_suite_s(write: Any) -> None:
    text = SMALL + SECOND_GROUP
    text += '[group.attack.soft]\ntitle = "Mine"\nparameters = { lam = 2.0 }\n'
    text += 'grant = ["model", "update", "auxiliary"]'
    _, suite = load_suite(write(text))
    (mine,) = of_group(suite, "By data set")
    given = {"budget": 7, "labels": "joint", "lam": 2.0}
    assert mine.column == "Mine"
    assert mine.cell.attack == "feature"
    assert given.items() <= mine.cell.attack_parameters.items()
    assert mine.cell.grant == ("model", "update", "auxiliary")
    assert {p.column for p in of_group(suite, "By batch size")} >= {"Joint"}


def test_columns_that_a_group_gives_one_title_are_told_apart_by_their_names(write: Any) -> None:
    text = SMALL + '[group.attack.soft]\ntitle = "Proposed"\n[group.attack.feature]\n'
    _, suite = load_suite(write(text))
    assert [p.column for p in expand("small", suite)[:2]] == ["soft", "feature"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("attack.lam=4.0", [("Proposed", 4.0), ("Joint", 4.0)]),
        ("attack.soft.lam=4.0", [("Proposed", 3.0), ("Joint", 4.0)]),
    ],
)
def test_a_setting_of_an_attack_wins_over_a_group_s(
    write: Any, setting: str, expected: list[tuple[str, float]]
) -> None:
    text = SMALL + SECOND_GROUP + "[group.attack.feature]\nparameters = { lam = 3.0 }\n"
    text += "[group.attack.soft]\nparameters = { lam = 3.0 }\n"
    _, suite = load_suite(write(text))
    assert parameters(of_group(suite, "By data set", setting), "lam") == expected


@pytest.mark.usefixtures("presets")
def test_a_column_s_parameters_are_laid_over_its_preset(write: Any) -> None:
    _, suite = load_suite(
        write(SMALL.replace("[attack.feature]", '[attack.feature]\npreset="paper"'))
    )
    found = cells(suite)[0].attack_parameters
    assert (found["budget"], found["lam"], found["restarts"]) == (7, 0.5, 3)


@pytest.mark.usefixtures("presets")
def test_a_cell_does_not_depend_on_whether_a_preset_is_named_or_spelt_out(write: Any) -> None:
    named = SMALL.replace("[attack.prior]", '[attack.mine]\nattack = "feature"\npreset = "paper"')
    spelt = named.replace('preset = "paper"', f"parameters = {{ {toml(PRESETS['paper'])} }}")
    assert keys(expand(*load_suite(write(named)))) == keys(expand(*load_suite(write(spelt))))


@pytest.mark.usefixtures("presets")
def test_a_preset_that_is_not_there_lists_those_that_are(write: Any) -> None:
    text = SMALL.replace("[attack.feature]", '[attack.feature]\npreset = "papers"')
    with pytest.raises(UsageError, match=r"'feature' has no preset 'papers'; .* paper, fast"):
        expand(*load_suite(write(text)))
    with pytest.raises(
        UsageError, match=r"attack\.preset=x: no attack .*'x'; there is paper, fast"
    ):
        cells(load_suite(write(SMALL))[1], "attack.preset=x")


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize(
    ("setting", "restarts"),
    [
        ("attack.preset=paper", [("Proposed", 3), ("Joint", 3), ("Prior", None)]),
        ("attack.soft.preset=paper", [("Proposed", 1), ("Joint", 3), ("Prior", None)]),
    ],
)
def test_a_preset_is_set_in_the_columns_that_have_it_and_wins_over_a_group_s(
    write: Any, setting: str, restarts: list[tuple[str, int | None]]
) -> None:
    text = SMALL + '[group.attack.feature]\npreset = "fast"\n[group.attack.soft]\n'
    text += 'preset = "fast"\n[group.attack.prior]'
    found = expand("small", override(load_suite(write(text))[1], [setting]))
    assert parameters(found, "restarts")[:3] == restarts


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize(
    ("settings", "budget", "lam"),
    [
        (["attack.preset=paper"], [9, 9], [0.25, 0.25]),
        (["attack.preset=fast"], [2, 2], [0.5, 0.1]),
        (["attack.feature.preset=paper"], [9, 7], [0.25, 0.1]),
        (["attack.preset=paper", "attack.lam=1.0"], [9, 9], [1.0, 1.0]),
        (["attack.soft.lam=1.0", "attack.preset=paper"], [9, 9], [0.25, 1.0]),
        (["attack.preset=paper", "attack.soft.preset=fast"], [9, 2], [0.25, 0.1]),
    ],
)
def test_a_preset_that_is_set_gives_way_only_to_other_settings(
    write: Any, settings: list[str], budget: list[int], lam: list[float]
) -> None:
    text = SMALL.replace("[1, 8]", "[1]") + "[group.attack.feature]\nparameters = { budget = 8 }\n"
    found = expand("small", override(load_suite(write(text + "[group.attack.soft]"))[1], settings))
    assert [value for _, value in parameters(found, "budget")] == budget
    assert [value for _, value in parameters(found, "lam")] == lam


@pytest.mark.usefixtures("presets")
def test_show_lists_presets_with_their_parameters() -> None:
    shown = as_text(description("feature"), plain).partition("Presets")[2]
    assert re.search(r"attack\.feature\.preset=NAME", shown)
    assert re.search(r"^paper +budget = 9, lam = 0\.25, restarts = 3$", shown, re.M)
    assert "Presets" not in as_text(description("prior"), plain)


def _groups() -> list[tuple[str, list[SuiteEntry]]]:
    """The cells of every title in our suites, those of several groups together."""
    found: dict[str, list[SuiteEntry]] = {}
    for suite in suite_names():
        for entry in suite_entries(suite):
            found.setdefault(f"{suite}: {entry.group}", []).append(entry)
    return list(found.items())


@pytest.mark.parametrize(("title", "entries"), _groups(), ids=lambda each: str(each)[:60])
def test_in_our_suites_numbers_of_individuals_make_no_column_and_no_row_of_a_table_is_lost(
    title: str, entries: list[SuiteEntry]
) -> None:
    leading = LAYOUTS[entries[0].layout]
    varying = varying_settings(entries, leading)
    assert "individuals" not in varying, title
    places: dict[tuple[str, ...], set[str]] = {}
    for entry in entries:
        row = leading_values(Measured(entry, None), "", (*varying, *leading))
        name = entry.cell.properties[0] if "property" in leading else ""
        places.setdefault((entry.column, name, *row), set()).add(entry.key)
    assert {len(keys) for keys in places.values()} == {1}


def test_numbers_of_individuals_at_one_batch_size_make_a_column(write: Any) -> None:
    swept = SMALL.replace("batch_size = [1, 8]", "batch_size = [1, 8], individuals = [64, 256]")
    assert "individuals" in varying_settings(expand(*load_suite(write(swept))), LAYOUTS["table2"])


def test_a_column_that_is_no_default_stands_only_where_a_group_names_it(write: Any) -> None:
    rare = SMALL.replace("[attack.soft]", "[attack.soft]\ndefault = false")
    named = GROUP.replace("By batch size", "Named") + "[group.attack.soft]\n"
    name, suite = load_suite(write(rare + named))
    found = expand(name, suite)
    assert {each.group for each in found if each.column == "Joint"} == {"Named"}
    assert {each.column for each in found} > {"Joint"}


def test_a_group_without_any_column_is_named(write: Any) -> None:
    text = TITLE + CELL + "[attack.prior]\ndefault = false\n" + GROUP
    with pytest.raises(UsageError, match=r"group 'By batch size' names no columns"):
        load_suite(write(text))
