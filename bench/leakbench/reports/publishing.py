"""The work of `leakbench publish`: writing the leaderboard and the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.files import replacing
from leakbench.experiments.suite import suite_names
from leakbench.records.folder import read_records
from leakbench.reports.claims import Claim, read_claims
from leakbench.reports.details import csv_name
from leakbench.reports.leaderboard import (
    Beside,
    LaidOut,
    laid_out,
    leaderboard,
    leading_suites,
    ranked_attacks,
)
from leakbench.reports.site.figure_gallery import Gallery, gallery
from leakbench.reports.site.folder import files_of_site, write_site
from leakbench.reports.site.leaderboard_pages import SiteContent, trend_of
from leakbench.reports.site.render import site
from leakbench.reports.suite_page import reading_of


@dataclass(frozen=True)
class Published:
    """The files that were written.

    Attributes:
        leaderboard: the Markdown file.
        site: the first page.
        left_out: a sentence for each record and figure that is not in them.
        tables: how many suites lay out some of the records.
    """

    leaderboard: Path
    site: Path
    left_out: tuple[str, ...]
    tables: int


def publish(
    out: Path,
    folder: Path | None,
    suites: Sequence[str],
    pixels: bool,
    trust_verified: bool = False,
    changes: Sequence[str] = (),
    submissions: Sequence[Path] = (),
) -> Published:
    """Write `leaderboard.md` and the site from the records of a run.

    Args:
        out: the folder that the run had as `--out`.
        folder: of the site; `site` in `out` if None.
        suites: names or TOML files of suites besides the paper's, for the leaderboard.
        pixels: whether to include figures of reconstructions, which may show individuals.
        trust_verified: whether to show entries of `verified.json` that another machine wrote like
            those of this one; otherwise they are shown apart, as claimed.
        changes: settings `KEY=VALUE` that `suites` were run with.
        submissions: folders of records of others, each with `submission.json`; their attacks are
            ranked as claimed.

    Raises:
        UsageError: there are no records, a suite or submission cannot be read, or the site's folder
            holds other files.
    """
    place = out / "site" if folder is None else folder
    files_of_site(place)
    claims = read_claims(submissions)
    records = read_records(out, trust_verified)
    found = laid_out(records, suites, changes)
    leading = leading_suites(found, suites)
    known = {*suite_names(), *(each.name for each in found)}
    figures = gallery(out / "figures", known, pixels)
    readings = {each.name: reading_of(out, each.name) for each in found}
    beside = beside_of(out, leading, figures, claims)
    ranked = ranked_attacks(leading, claims)
    content = SiteContent(found, leading, records, ranked, figures, readings, claims)
    # First, since its folder may yet be refused.
    write_site(place, site(content))
    path = out / "leaderboard.md"
    with replacing(path) as temporary:
        text = leaderboard(leading, records, trust_verified, beside, ranked)
        temporary.write_text(text, encoding="utf-8")
    unused = {**records.left_out, **figures.left_out}
    for claim, of in zip(claims, submissions, strict=True):
        unused |= {str(of / name): why for name, why in claim.folder.left_out.items()}
    left_out = tuple(f"left out {name}: {why}" for name, why in unused.items())
    return Published(path, place / "index.html", left_out, len(leading))


def beside_of(
    out: Path, leading: Sequence[LaidOut], figures: Gallery, claims: Sequence[Claim] = ()
) -> Beside:
    """Return what lies in a run's folder to which its leaderboard links.

    Args:
        leading: the suites of the leaderboard.
        figures, claims: of the folder, and of others.
    """
    pages = frozenset(each.name for each in leading if _has_page(out, each.name))
    return Beside(pages, trend_of(figures.figures, leading), claims)


def _has_page(out: Path, suite: str) -> bool:
    """Whether a suite's page and CSV file lie in a folder, so that there is what to link to."""
    return (out / f"{suite}.md").is_file() and (out / csv_name(suite)).is_file()
