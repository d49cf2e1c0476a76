"""The annex for a data protection impact assessment."""

from __future__ import annotations

from html.parser import HTMLParser

from leakbench import Report
from leakbench.auditing.html_page import html_page
from leakbench.auditing.impact_assessment import impact_assessment
from leakbench.auditing.report_parts import Answer
from made_reports import SHOWN, attack, defense, report, update

CERTIFIED = Answer(probabilities={"bright": 0.9}, right={"bright": True}, certified=True, cosine=1)

DEFENSES = [
    defense("none", "leaks", "advantage"),
    defense("noise", "no leak", "advantage excluded", parameters={"sigma": 2}),
    defense("secure", "not applied", "defense refused", refused="too few batches"),
]


def made(**changed: object) -> Report:
    attacks = [
        attack("exact", certified=1, false_certificates=0),
        attack("ours", {"bright": SHOWN}),
    ]
    updates = [update("client 0", [{"exact": CERTIFIED}, {}])]
    return report(attacks, updates, **{"defenses": DEFENSES, **changed})


def sections(of: Report) -> dict[str, str]:
    return {each.title: " ".join(each.sentences) for each in impact_assessment(of)}


def test_it_states_the_facts_of_the_report_under_the_headings_of_an_assessment() -> None:
    of = made()
    found = sections(of)
    headings = ["Threat model", "Assets", "Likelihood", "Measures", "Residual risk", "Limits"]
    assert list(found) == headings
    assert "honest but curious" in found["Threat model"]
    assert "updates without a defense" in found["Threat model"]
    assert "AML.T0024.001" in found["Threat model"]
    assert "2 individuals in 1 updates, 2 in each" in found["Assets"]
    assert of.verdict_sentence in found["Likelihood"]
    assert "Of 2 individuals 1 are shown to be exposed, 1 of them" in found["Likelihood"]
    assert found["Measures"].startswith("Stopped by noise (sigma = 2)")
    assert "Under noise (sigma = 2): no leak: an advantage of more" in found["Residual risk"]
    assert "secure" not in found["Residual risk"]
    assert all(text in found["Limits"] for text in (*of.limitations, *of.not_tested))


def test_without_measures_none_is_invented() -> None:
    found = sections(made(defenses=[]))
    assert found["Measures"] == "No measure was tried."
    assert found["Residual risk"] == "Without a measure the risk is the one above."


def test_the_clients_own_defense_is_named() -> None:
    of = made()
    known = {"name": "gaussian", "sigma": 0.1}
    of = of.model_copy(update={"threat": of.threat | {"defense": known, "labels_known": True}})
    found = sections(of)["Threat model"]
    assert "updates under gaussian (sigma = 0.1), which it knows" in found
    assert "It knows the main-task labels" in found


def test_it_lists_no_individual() -> None:
    assert "client 0/0" in html_page(made())
    assert not any("client 0/0" in text for text in sections(made()).values())


class Tags(HTMLParser):
    """What is open at each text, and whether every tag is closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.within: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.within.setdefault(data.strip(), list(self.open))


def test_it_is_folded_at_the_end_of_a_well_formed_page() -> None:
    page = html_page(made())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.within["Residual risk"][-2:] == ["details", "h3"]
    assert page.index("<h2>Annex</h2>") > page.index("<h2>Setup</h2>")
    assert '<details class="annex">' in page
