"""Links to publications, from the identifiers in attacks' references."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperLink:
    """A link to a publication.

    Attributes:
        label: what it leads to, such as `arXiv`.
        url: begins with the address of the registry, whatever the reference holds.
    """

    label: str
    url: str


REGISTRIES: Mapping[str, tuple[str, str]] = {
    "doi": (r"\bdoi (10\.\d{4,9}/[\w.()/-]*\w)", "https://doi.org/"),
    "arXiv": (r"\barXiv (\d{4}\.\d{4,5})\b", "https://arxiv.org/abs/"),
    "OpenReview": (r"\bOpenReview ([\w-]+)", "https://openreview.net/forum?id="),
}
"""Name of a registry → pattern of an identifier in a reference, and the address before it."""


def paper_link(reference: str) -> PaperLink | None:
    """Return the link to an attack's own publication; None where its reference names none.

    Args:
        reference: of the attack; what stands after a `;` are other works.

    >>> paper_link("Zhu, Liu, Han 2019, Deep Leakage from Gradients, arXiv 1906.08935").url
    'https://arxiv.org/abs/1906.08935'
    >>> paper_link("none for the attack; its search: arXiv 1906.08935") is None
    True
    """
    own = reference.partition(";")[0]
    for label, (pattern, address) in REGISTRIES.items():
        if found := re.search(pattern, own):
            return PaperLink(label, address + found[1])
    return None
