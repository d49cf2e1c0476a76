"""The JSON schema of `audit.json`."""

from __future__ import annotations

from typing import Any

from leakbench.auditing.report_contents import ReportContents

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def report_schema() -> dict[str, Any]:
    """Return the JSON schema of `audit.json`, as pydantic derives it from the report's classes."""
    # In the mode "serialization" estimates would be objects of any content, since a function of
    # ours writes them.
    schema = ReportContents.model_json_schema(mode="validation")
    return {"$schema": DIALECT, **schema, "title": "audit.json"}
