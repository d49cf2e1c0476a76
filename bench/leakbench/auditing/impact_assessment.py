"""The report in the terms of a data protection impact assessment, from its facts alone."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.auditing.findings import DefenseEffect
from leakbench.auditing.more_batches import undecided_text
from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.report_parts import defense_label
from leakbench.auditing.sentences import verdict_text

ATLAS = (
    "The nearest technique of MITRE ATLAS is AML.T0024.001, Invert AI Model. It describes queries "
    "to a finished model; here the adversary reads updates."
)


@dataclass(frozen=True)
class Section:
    """A section of the annex.

    Attributes:
        sentences: at least one.
    """

    title: str
    sentences: list[str]


def impact_assessment(report: ReportContents) -> list[Section]:
    """Return the sections of an annex to a data protection impact assessment."""
    return [
        Section("Threat model", _threat_model(report)),
        Section("Assets", _assets(report)),
        Section("Likelihood", _likelihood(report)),
        Section("Measures", _measures(report)),
        Section("Residual risk", _residual_risk(report)),
        Section("Limits", [*report.limitations, *report.not_tested]),
    ]


def _threat_model(report: ReportContents) -> list[str]:
    threat, auxiliary = report.threat, report.auxiliary
    labels = "knows" if threat["labels_known"] else "does not know"
    defense = threat["defense"]
    sent = "without a defense"
    if defense is not None:
        parameters = {key: value for key, value in defense.items() if key != "name"}
        sent = f"under {defense_label(defense['name'], parameters)}, which it knows"
    return [
        f"Adversary: the server, honest but curious. It follows the protocol, and sees each "
        f"client's update, the model {report.model.name} and D_aux, {auxiliary.individuals} "
        f"labelled images of people who are in no client's data. It {labels} the main-task "
        f"labels of a batch.",
        f"Clients run the model in {threat['mode']} mode and send updates {sent}.",
        ATLAS,
    ]


def _assets(report: ReportContents) -> list[str]:
    sizes = sorted({update.size for update in report.updates})
    each = "–".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else "0"
    return [
        f"Data of {report.individuals} individuals in {len(report.updates)} updates, {each} in "
        f"each.",
        f"Of each individual: the deep feature ({report.model.features} numbers), and as "
        f"properties {', '.join(report.auxiliary.properties)}. Whether these are special "
        f"categories of personal data is for the controller to judge.",
    ]


def _likelihood(report: ReportContents) -> list[str]:
    exposed = len(report.exposed)
    exact = sum(bool(each.certified_by or each.exact_by) for each in report.exposed)
    return [
        f"If the server attacks, this is what it learns. {report.verdict_sentence}",
        f"Of {report.individuals} individuals {exposed} are shown to be exposed, {exact} of them "
        f"by an exact feature.",
        *(
            text
            for finding, text in zip(report.findings_as_data, report.findings, strict=True)
            if not isinstance(finding, DefenseEffect)
        ),
        *report.worst_case_sentences,
        *(undecided_text(each) for each in report.undecided),
        "How likely it is that the server attacks cannot be told from an audit.",
    ]


def _measures(report: ReportContents) -> list[str]:
    effects = [
        text
        for finding, text in zip(report.findings_as_data, report.findings, strict=True)
        if isinstance(finding, DefenseEffect)
    ]
    return effects or ["No measure was tried."]


def _residual_risk(report: ReportContents) -> list[str]:
    tried = [d for d in report.defenses if not d.refused and d.name != "none"]
    if not tried:
        return ["Without a measure the risk is the one above."]
    return [
        *(f"Under {d.label}: {verdict_text(d.verdict)}." for d in tried),
        "What is excluded is excluded only for the attacks that were run; a bound on all attacks "
        "takes differential privacy.",
    ]
