"""Facts about the ranking of attacks: its numbers follow from those of the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.measured import Measured
from leakbench.records.record import Cost
from leakbench.records.verified import Remeasured
from leakbench.reports.papers import paper_link
from leakbench.reports.publishing import publish
from leakbench.reports.ranking import Ranking, rankings, score
from leakbench.reports.ranking_text import (
    in_words,
    leader_text,
    legend,
    ranking_markdown,
    result_text,
)
from publishing import done, estimate, write_run
from records import record_of, suite_entries, version_of

SUITE = """
title = "Planted"

[cell]
image_size = 32
dataset = "synthetic"
properties = ["gender", "glasses"]
main_task = "hat"
individuals = 64

[attack.feature]
[attack.mask_demixing]
[attack.hcn]
grant = ["auxiliary", "outputs"]
[attack.prior]
[attack.labels]
[attack.labels_recovered]
attack = "labels"
title = "Labels (recovered)"
grant = ["model", "update", "auxiliary"]
parameters = { labels = "counts" }
[attack.labels_higher]
attack = "labels"
default = false
grant = ["model", "update", "auxiliary", "statistics"]
parameters = { labels = "counts" }

[[group]]
title = "By batch size"
layout = "table2"
sweep = { batch_size = [1, 8] }

[[group]]
title = "Another attack seed"
layout = "table2"
cell = { attack_seeds = 2, batch_size = 8 }

[[group]]
title = "Another control"
layout = "table2"
sweep = { batch_size = [1, 8] }

[group.attack.labels_higher]

[[group]]
title = "Under a defense"
layout = "defense"
cell = { defense = "gaussian", defense_parameters = { sigma = 0.1 } }
sweep = { batch_size = [1] }
"""

KNOWS: Mapping[str, tuple[str, ...]] = {
    "feature": ("model", "update", "labels", "auxiliary"),
    "mask_demixing": ("model", "update", "auxiliary"),
    "hcn": ("auxiliary", "outputs"),
    "prior": ("auxiliary",),
    "labels": ("model", "labels", "auxiliary"),
    "labels_recovered": ("model", "update", "auxiliary"),
    "labels_higher": ("model", "update", "auxiliary"),
}

VALUES = {
    "feature": 0.8,
    "mask_demixing": 0.9,
    "hcn": 0.95,
    "prior": 0.5,
    "labels": 0.6,
    "labels_recovered": 0.55,
    "labels_higher": 0.89,
}
"""Column → balanced accuracy of gender; that of glasses is 0.1 below."""

HALF = {"feature": 0.03, "mask_demixing": 0.03, "hcn": 0.0}
"""Column → half the width of the interval; 0.04 for controls, so that differences have 0.05."""


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[SuiteEntry]:
    path = tmp_path_factory.mktemp("suite") / "planted.toml"
    path.write_text(SUITE, encoding="utf-8")
    return suite_entries(str(path))


def column_of(entry: SuiteEntry) -> str:
    if "statistics" in entry.cell.grant:
        return "labels_higher"
    recovered = entry.cell.attack_parameters.get("labels") == "counts"
    is_recovered = entry.cell.attack == "labels" and recovered
    return "labels_recovered" if is_recovered else entry.cell.attack


def planted(entry: SuiteEntry, higher: float = 0.0) -> Measured:
    """Return a cell with the values above, those of the attack `feature` so much higher."""
    column = column_of(entry)
    value = VALUES[column] + (higher if column == "feature" else 0.0)
    half = HALF.get(column, 0.04)
    shares = {"gender": estimate(value, half), "glasses": estimate(value - 0.1, half)}
    exact = estimate(0.25) if column == "feature" else None
    shared = {"accuracy": 0.7, "most_frequent_class": 0.5, "labelled_auxiliary": 1.0}
    record = record_of(entry, shares, exact=exact, main_task=shared, classes=2)
    cost = Cost(seconds=32, steps=1, peak_memory_mib=1)
    told = {"knowledge": KNOWS[column], "cost": cost, "attack_version": version_of(entry)}
    return Measured(entry, record.model_copy(update=told))


def only(entries: list[SuiteEntry], *groups: str) -> list[SuiteEntry]:
    return [entry for entry in entries if entry.group in groups]


def one_ranking(cells: list[Measured]) -> Ranking:
    (found,) = rankings(cells)
    return found


def test_an_advantage_is_over_the_best_control_with_the_attacks_knowledge(
    entries: list[SuiteEntry],
) -> None:
    found = one_ranking(list(map(planted, only(entries, "By batch size"))))
    assert found.sizes == (1, 8)
    attacks = {each.attack: each for each in found.attacks}
    for size in found.sizes:
        feature = attacks["feature"].advantage(size)
        demixing = attacks["mask_demixing"].advantage(size)
        outputs = attacks["hcn"].advantage(size)
        assert feature and demixing and outputs
        # Over labels 0.6: ± √(0.03² + 0.04²).
        assert (feature.value, feature.low, feature.high) == pytest.approx((0.2, 0.15, 0.25))
        # It does not know the labels, so over those recovered: 0.55.
        assert (demixing.value, demixing.low) == pytest.approx((0.35, 0.3))
        # It sees no update, so over prior: 0.5 and 0.4.
        assert (outputs.value, outputs.low) == pytest.approx((0.45, 0.41))
        assert attacks["feature"].exact(size) == pytest.approx(0.25)
        assert attacks["hcn"].exact(size) is None
        # 32 seconds for 64 individuals.
        assert attacks["feature"].seconds(size) == pytest.approx(0.5)


def test_attacks_of_other_threat_models_are_ranked_apart(entries: list[SuiteEntry]) -> None:
    found = one_ranking(list(map(planted, only(entries, "By batch size"))))
    assert [
        (group.knowledge, [each.attack for each in group.attacks]) for group in found.groups
    ] == [
        (KNOWS["mask_demixing"], ["mask_demixing"]),
        (KNOWS["feature"], ["feature"]),
        (KNOWS["hcn"], ["hcn"]),
    ]
    # HCN has the highest number, and sees no update.
    assert found.leader.attack == "mask_demixing"
    assert leader_text(found) == (
        "Mask demixing leads the attacks that see updates: an advantage of 35.0 [30.0, 40.0] "
        "points over the best control at B = 8."
    )
    assert "bold where its interval lies above 0. U: sees the update; O: sees" in legend(found)
    shared = "Each attack has D_aux, labelled images of others; those that see updates know the "
    assert f"{shared}shared model." in legend(found)


def test_what_all_attacks_see_is_said_in_every_group(entries: list[SuiteEntry]) -> None:
    chosen = [e for e in only(entries, "By batch size") if e.cell.attack != "hcn"]
    found = one_ranking(list(map(planted, chosen)))
    assert [in_words(group.knowledge, found) for group in found.groups] == [
        "sees the update",
        "sees the update; is given the batch's labels",
    ]
    assert "U: sees the update; L: " in legend(found)
    shared = "Each attack knows the shared model and has D_aux, labelled images of others."
    assert legend(found).endswith(shared)


def test_a_leader_that_is_not_certain_says_so(entries: list[SuiteEntry]) -> None:
    cells = [planted(entry, higher=0.12) for entry in only(entries, "By batch size")]
    # 32 points over the labels, and 35 over those recovered.
    assert leader_text(one_ranking(cells)).endswith("; not certainly above Proposed.")


def test_several_cells_are_averaged_and_counted(entries: list[SuiteEntry]) -> None:
    cells = [
        planted(entry, higher=0.1 if entry.cell.attack_seeds == 2 else 0.0)
        for entry in only(entries, "By batch size", "Another attack seed")
    ]
    found = one_ranking(cells)
    (feature,) = (each for each in found.attacks if each.attack == "feature")
    above = feature.advantage(8)
    assert above and above.value == pytest.approx((0.2 + 0.3) / 2)
    assert above.low == pytest.approx((0.15 + 0.25) / 2)
    row = next(line for line in ranking_markdown(found).splitlines() if "| Proposed |" in line)
    assert row == (
        "| 1 | Proposed | U L | **20.0** [15.0, 25.0] | **25.0** [20.0, 30.0] (2 cells) "
        "| 25 / 25 | 0.5 / 0.5 | not yet | [doi](https://doi.org/10.1109/ICME52920.2022.9859857) |"
    )
    assert score(feature, found.sizes) == pytest.approx((0.2 + 0.25) / 2)


def test_cells_under_a_defense_are_not_ranked(entries: list[SuiteEntry]) -> None:
    assert rankings(list(map(planted, only(entries, "Under a defense")))) == []


def test_without_a_control_that_knows_as_much_there_is_no_number(
    entries: list[SuiteEntry],
) -> None:
    cells = [planted(e) for e in only(entries, "By batch size") if column_of(e) != "labels"]
    found = one_ranking(cells)
    (feature,) = (each for each in found.attacks if each.attack == "feature")
    assert feature.advantages == {}
    assert result_text("feature", [found]).startswith("No ranking compares it")
    row = next(line for line in ranking_markdown(found).splitlines() if "| Proposed |" in line)
    assert row.startswith("| 1 | Proposed | U L | – | – |")


def test_a_ranking_says_what_came_of_measuring_again(entries: list[SuiteEntry]) -> None:
    def again(agrees: bool) -> Remeasured:
        differences = () if agrees else ("accuracy",)
        return Remeasured(
            content="",
            when="",
            rule="equal",
            agrees=agrees,
            differences=differences,
            device="cpu",
            versions={},
        )

    cells = [
        Measured(m.entry, m.record, again(m.entry.cell.attack == "feature"))
        if m.entry.cell.batch_size == 1
        else m
        for m in map(planted, only(entries, "By batch size"))
    ]
    texts = {each.attack: each.again() for each in one_ranking(cells).attacks}
    assert texts["feature"] == "agrees (1 of 2)"
    assert texts["hcn"] == "differs (1 of 2)"


def test_a_claim_is_marked_until_all_of_its_cells_are_measured_again(
    entries: list[SuiteEntry],
) -> None:
    cells = list(map(planted, only(entries, "By batch size")))
    ours = [m for m in cells if m.entry.cell.attack != "feature"]
    theirs = [m for m in cells if m.entry.cell.attack == "feature"]
    (found,) = rankings(ours, {"Team": theirs})
    assert "| Proposed (claimed by Team) |" in ranking_markdown(found)
    # Their numbers of a cell that we have too do not count.
    (both,) = rankings(cells, {"Team": [planted(m.entry, 0.1) for m in theirs]})
    assert ranking_markdown(both) == ranking_markdown(one_ranking(cells))


def test_a_claim_changes_no_number_of_others_and_does_not_lead(
    entries: list[SuiteEntry],
) -> None:
    cells = list(map(planted, only(entries, "By batch size")))
    ours = [m for m in cells if m.entry.cell.attack != "feature"]
    theirs = [planted(m.entry, 0.19) for m in cells if m.entry.cell.attack == "feature"]
    control = list(map(planted, only(entries, "Another control")))
    (found,) = rankings(ours, {"Team": [*theirs, *control]})
    attacks = {each.attack: each for each in found.attacks}
    demixing, feature = (attacks[name].advantage(8) for name in ("mask_demixing", "feature"))
    # Over the labels that were recovered here, 0.55, and not over the claimed 0.89.
    assert demixing and demixing.value == pytest.approx(0.35)
    # Their own attack is compared with their control too.
    assert feature and feature.value == pytest.approx(0.99 - 0.89)
    (high,) = rankings(ours, {"Team": theirs})
    scores = {each.attack: score(each, (1, 8)) for each in high.attacks}
    assert scores["feature"] > scores["mask_demixing"]
    assert high.leader.attack == "mask_demixing"


def test_settings_of_one_data_set_and_model_say_in_what_they_differ(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(SUITE.replace("batch_size = [1, 8]", "batch_size = [1], rounds = [0, 7]"))
    found = rankings(list(map(planted, only(suite_entries(str(path)), "By batch size"))))
    assert {each.title for each in found} == {
        "synthetic faces, small_cnn, 0 rounds",
        "synthetic faces, small_cnn, 7 rounds",
    }


def test_links_to_papers_come_from_identifiers_alone() -> None:
    link = paper_link("Somebody 2020, Title, doi 10.1109/ICME52920.2022.9859857; others, arXiv 1.1")
    assert link and link.url == "https://doi.org/10.1109/ICME52920.2022.9859857"
    assert paper_link("https://evil.example [x](javascript:y)") is None


Run = Callable[..., tuple[int, str, str]]


def test_what_was_run_with_changed_settings_is_published_with_them(
    tmp_path: Path, run: Run
) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick", "rounds=7")))
    code, _, said = run("publish", "--out", str(out), "--set", "rounds=7")
    assert code == 2 and "changes no suite" in said
    code, *_ = run("publish", "--out", str(out), "--suite", "quick", "--set", "rounds=7")
    assert code == 0
    assert (
        "Mask demixing leads the attacks that see updates" in (out / "leaderboard.md").read_text()
    )


def test_the_leaderboard_links_to_the_suites_pages_and_shows_the_trend(tmp_path: Path) -> None:
    from PIL import Image

    out = write_run(tmp_path, map(done, suite_entries("quick")))
    (out / "quick.md").write_text("")
    (out / "quick.csv").write_text("")
    (out / "quick.reading.md").write_text("## Result\n\nSee [it](quick.md), [no](javascript:x).\n")
    (out / "figures").mkdir()
    Image.new("RGB", (30, 20)).save(out / "figures" / "quick-batches.png")
    written = publish(out, None, [], pixels=False)
    text = written.leaderboard.read_text()
    assert text.index("](figures/quick-batches.png)") < text.index("## Ranking")
    assert "](quick.md); all metrics as [CSV](quick.csv)" in text
    assert "## Settings" not in text and "| data set " not in text
    page = (written.site.parent / "suite-quick.html").read_text()
    assert page.index("<h2>Result</h2>") < page.index('class="table"')
    assert '<a href="suite-quick.html">it</a>, ' in page and 'href="javascript' not in page
    first = written.site.read_text()
    assert 'src="figures/quick-batches.png"' in first
    assert 'type="radio" name="ranking" id="ranking-1" checked' in first
