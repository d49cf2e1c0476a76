"""Folders of records that others submitted, as claims until they are measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line
from leakbench.metrics.formatting import counted
from leakbench.records.folder import RecordFolder, read_records
from leakbench.records.measured import Measured
from leakbench.records.submission import Submission, read_submission
from leakbench.reports.recorded_cells import measured_in_order


@dataclass(frozen=True)
class Claim:
    """A folder that somebody submitted.

    Attributes:
        form: who, for which paper, with which code.
        folder: the records; what others than this machine say of them does not count.
    """

    form: Submission
    folder: RecordFolder

    @property
    def status(self) -> str:
        """How many of the records this machine has measured again, and what came of it."""
        total = counted(len(self.folder.records), "record")
        agreeing, differing = (len(self.folder.with_outcome(o)) for o in ("agrees", "differs"))
        if not self.folder.remeasured:
            return f"{total}, none measured again yet"
        differ = f", {differing} differ" if differing else ""
        return f"{total}, {agreeing} measured again and agree{differ}"


def read_claims(folders: Sequence[Path]) -> list[Claim]:
    """Return the submissions in some folders.

    Raises:
        UsageError: a folder has no form, or one that is wrong, or no records; or two have the same
            name.
    """
    # The forms first, since reading records takes long.
    forms = [read_submission(folder) for folder in folders]
    names = [form.name for form in forms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two submissions have the name {twice!r}; pass one of them, or merge them"
        )
    return [Claim(form, read_records(folder)) for form, folder in zip(forms, folders, strict=True)]


def claimed_cells(claims: Sequence[Claim]) -> dict[str, list[Measured]]:
    """Return who claims records → these, as entries of no suite."""
    return {
        claim.form.name: [
            Measured(m.entry, m.record, claim.folder.remeasured.get(m.entry.key))
            for m in measured_in_order(list(claim.folder.records.values()))
        ]
        for claim in claims
    }


ABOUT = (
    "Others measured these records. Until `leakbench verify` has measured all records of a row "
    "again here and they agree, the row is marked as claimed."
)


def claims_lines(claims: Sequence[Claim]) -> list[str]:
    """Return the section on submissions; nothing without any."""
    lines = [
        one_line(
            f"- **{claim.form.name}**: {claim.status}. Paper: {claim.form.paper}; code: "
            f"{claim.form.code} ({claim.form.licence}); contact: {claim.form.contact}. "
            f"{claim.form.note}"
        )
        for claim in claims
    ]
    return ["## Submissions", ABOUT, "\n".join(lines)] if lines else []
