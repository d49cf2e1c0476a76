"""`submission.json`: who submits a folder of records, for which paper, and with which code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leakbench.base.errors import UsageError
from leakbench.base.files import read_json
from leakbench.base.plugins import sentence
from leakbench.records.verified import home_of

NAME = "submission.json"

FORM = "as the page “Submit results” of the documentation shows"

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A line of text."""

Address = Annotated[str, Field(max_length=300, pattern=r"^https://[^\s<>\"'\\]+$")]
"""An address on the web."""


class Submission(BaseModel):
    """What a team says of the records that it submits.

    Attributes:
        schema_version: of this form.
        name: of the team, as "claimed by NAME" shows it.
        paper: where the attack is described.
        code: where its code can be fetched and installed; `leakbench verify` needs it.
        contact: a person who answers questions: an e-mail address, or an address on the web.
        licence: of the code, by its SPDX identifier.
        note: what readers must know of the numbers.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="A submission of records to leakbench"
    )

    schema_version: Literal[1]
    name: Annotated[Line, Field(max_length=60)]
    paper: Address
    code: Address
    contact: Line
    licence: Line
    note: Annotated[str, Field(max_length=1000)] = ""


def read_submission(folder: Path) -> Submission:
    """Return the form in a folder of records.

    Args:
        folder: that a run had as `--out`, or of records.

    Raises:
        UsageError: it is missing or not filled in as the schema wants it.
    """
    path = home_of(folder) / NAME
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing; a submission names its paper and code there, {FORM}"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error})") from None
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {sentence(error)}; it is filled in {FORM}") from None


def schema_text() -> str:
    """Return the JSON schema of the form, as the documentation has it."""
    return json.dumps(Submission.model_json_schema(), indent=2) + "\n"
