"""The report as SARIF 2.1.0, which code-scanning services read; it lists no individual.

Static Analysis Results Interchange Format, OASIS 2020:
https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from leakbench.auditing.findings import CertifiedFeatures, ExactFeatures, InferredProperty
from leakbench.auditing.report_contents import ReportContents
from leakbench.auditing.sentences import sentence
from leakbench.base.seeds import digest
from leakbench.metrics.estimates import Estimate

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)

CERTIFIED_RULE, EXACT_RULE = "certified-features", "exact-features"
ADVANTAGE_RULE = "property-advantage"

_RULES: tuple[dict[str, Any], ...] = (
    {
        "id": CERTIFIED_RULE,
        "name": "CertifiedFeatures",
        "shortDescription": {"text": "Updates reveal exact deep features of individuals."},
        "fullDescription": {
            "text": "An attack computes deep features of individuals exactly from their client's "
            "update, and certifies that they are exact. Properties that the features tell can be "
            "inferred as well as from the individual's own data."
        },
        "help": {
            "text": "Try defenses with `leakbench audit --defense`, aggregate more individuals, or "
            "train with differential privacy; then audit again."
        },
        "defaultConfiguration": {"level": "error"},
    },
    {
        "id": EXACT_RULE,
        "name": "ExactFeatures",
        "shortDescription": {"text": "Updates reveal deep features of individuals exactly."},
        "fullDescription": {
            "text": "An attack computes deep features of individuals exactly from their client's "
            "update, as the truth shows. It does not certify them, so that a server does not know "
            "which are exact."
        },
        "help": {
            "text": "Try defenses with `leakbench audit --defense`, aggregate more individuals, or "
            "train with differential privacy; then audit again."
        },
        "defaultConfiguration": {"level": "error"},
    },
    {
        "id": ADVANTAGE_RULE,
        "name": "PropertyAdvantage",
        "shortDescription": {"text": "Updates reveal a property of individuals."},
        "fullDescription": {
            "text": "An attack infers a property of individuals from their client's update with a "
            "higher balanced accuracy than the best baseline that does not see the update; the 95 "
            "% interval of the difference is above 0."
        },
        "help": {
            "text": "Try defenses with `leakbench audit --defense`, aggregate more individuals, or "
            "train with differential privacy; then audit again."
        },
        "defaultConfiguration": {"level": "error"},
    },
)


def sarif_log(report: ReportContents, model_file: str | None = None) -> dict[str, Any]:
    """Return the report as a SARIF log of one run.

    There is a result for each attack with certified features that nothing refutes, or with exact
    features that the truth shows, and for each property in which an advantage is shown. An
    undecided verdict and limitations are notifications of the tool, so that a log without results
    is not taken for a proof.

    Args:
        model_file: the source of the model, where results are shown; None names the model alone.
    """
    notes = [] if report.verdict.outcome != "undecided" else [report.verdict_sentence]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "leakbench",
                        "version": report.leakbench,
                        "rules": list(_RULES),
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": not report.interrupted,
                        "endTimeUtc": report.finished.replace("+00:00", "Z"),
                        "toolExecutionNotifications": [
                            *({"level": "warning", "message": {"text": text}} for text in notes),
                            *(
                                {"level": "note", "message": {"text": text}}
                                for text in (*report.not_tested, *report.limitations)
                            ),
                        ],
                    }
                ],
                "results": [
                    _result(rule, of, text, values, report, model_file)
                    for rule, of, text, values in _leaks(report)
                ],
            }
        ],
    }


def _leaks(report: ReportContents) -> list[tuple[str, Sequence[str], str, dict[str, Any]]]:
    """Return of each leak the rule, what it is about, a sentence and its numbers."""
    certifying = {title for each in report.exposed for title in each.certified_by}
    found: list[tuple[str, Sequence[str], str, dict[str, Any]]] = []
    for finding in report.findings_as_data:
        text = sentence(finding)
        if isinstance(finding, CertifiedFeatures) and finding.attack in certifying:
            values = {"certified": finding.certified, "individuals": finding.individuals}
            found.append((CERTIFIED_RULE, [finding.attack], text, values))
        elif isinstance(finding, ExactFeatures):
            share = _numbers(finding.share)
            found.append((EXACT_RULE, [finding.attack], text, {"share": share}))
        elif isinstance(finding, InferredProperty) and finding.shown:
            advantage = _numbers(finding.advantage)
            found.append((ADVANTAGE_RULE, [finding.subject], text, {"advantage": advantage}))
    return found


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _result(
    rule: str,
    of: Sequence[str],
    text: str,
    values: dict[str, Any],
    report: ReportContents,
    model_file: str | None,
) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": report.model.name, "kind": "module"}]
    }
    if model_file is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": _uri(model_file)},
            "region": {"startLine": 1},
        }
    return {
        "ruleId": rule,
        "ruleIndex": [each["id"] for each in _RULES].index(rule),
        "level": "error",
        "message": {"text": text},
        "locations": [location],
        # Numbers are left out: the same leak of a later audit is the same alert.
        "partialFingerprints": {"leak/v1": digest(rule, *of, report.model.name)},
        "properties": values,
    }


def _uri(path: str) -> str:
    """Return a path as a relative reference, or as a file's address if it is absolute."""
    parts = PurePath(path)
    return parts.as_uri() if parts.is_absolute() else quote(parts.as_posix())
