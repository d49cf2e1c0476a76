"""Tables in the paper's layout, from records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.defense import updates_seen
from bench.details import details
from bench.prices import price, price_aid, price_columns
from bench.registry import ATTACKS, DATASETS
from bench.rows import (
    LAYOUTS,
    MISSING,
    Measured,
    Row,
    describe,
    is_implied,
    leading_values,
    markdown_table,
    percent,
    text_of,
    varying_settings,
)
from bench.settings import settings


def markdown(title: str, cells: Sequence[Measured], command: str, reading: str = "") -> str:
    """Return a suite's whole report.

    Args:
        reading: what somebody has to say of the tables, put under them.
    """
    parts = [f"# {title}", f"Made by `{command}`."]
    parts += [main_tables(cells), reading_aid(cells), reading.strip()]
    parts += [details(cells), settings(cells)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main_tables(cells: Sequence[Measured]) -> str:
    """Return one table a group: balanced accuracy with its interval, in percent, or exactness."""
    groups = list(dict.fromkeys(m.planned.group for m in cells))
    tables = []
    for group in groups:
        of_group = [m for m in cells if m.planned.group == group]
        parts = [f"## {group}", _group_table(of_group), _terms(of_group)]
        tables.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(tables)


def _terms(cells: Sequence[Measured]) -> str:
    """Return a sentence on what attacks were given: evaluations, labels, and what f_p reads."""
    wordings = {
        "budget": "{} gradient evaluations a victim batch",
        "labels": "labels {}",
        "reads": "properties read off {}",
    }
    attacking = [m for m in cells if not ATTACKS.get(m.planned.cell.attack).control]
    every = {m.planned.column for m in attacking}
    said = []
    for parameter, wording in wordings.items():
        values: dict[str, list[str]] = {}
        for m in attacking:
            known = m.planned.cell.attack_parameters
            if parameter in known:
                if parameter in m.planned.swept:
                    break
                columns = values.setdefault(text_of(known[parameter]), [])
                columns += [m.planned.column] * (m.planned.column not in columns)
        else:
            shares = [
                value if set(columns) == every else f"{value} ({', '.join(columns)})"
                for value, columns in values.items()
            ]
            if shares:
                said.append(wording.format(", ".join(shares)))
    return f"Attacks have {'; '.join(said)}." if said else ""


def _group_table(cells: Sequence[Measured]) -> str:
    leading = LAYOUTS[cells[0].planned.layout]
    varying = varying_settings([m.planned for m in cells], leading)
    frame: dict[Row, dict[str, str]] = {}
    of_row: dict[Row, list[Measured]] = {}
    for measured in cells:
        whole = OF_ALL_PROPERTIES.get(measured.planned.layout)
        for name in ("",) if whole else measured.planned.cell.properties:
            row = leading_values(measured, name, (*varying, *leading))
            shown = whole(measured) if whole else _accuracy(measured, name)
            frame.setdefault(row, {})[measured.planned.column] = shown
            of_row.setdefault(row, []).append(measured)
    columns = list(dict.fromkeys(m.planned.column for m in cells))
    rows = _in_reading_order(frame)
    prices = {row: price(of_row[row]) for row in rows}
    trailing = price_columns(prices.values()) if cells[0].planned.layout == "defense" else []
    table = [
        [
            *_without_repeats(row, rows, i),
            *(frame[row].get(c, MISSING) for c in columns),
            *(prices[row].get(c, MISSING) for c in trailing),
        ]
        for i, row in enumerate(rows)
    ]
    return markdown_table(table, [*varying, *leading, *columns, *trailing])


def _in_reading_order(frame: Mapping[Row, object]) -> list[Row]:
    """Return rows so that equal leading values stand together, each in order of appearance."""
    ranks = [
        {value: i for i, value in enumerate(dict.fromkeys(column))}
        for column in zip(*frame, strict=True)
    ]
    return sorted(frame, key=lambda row: [rank[v] for rank, v in zip(ranks, row, strict=True)])


def _without_repeats(row: Row, rows: Sequence[Row], index: int) -> list[str]:
    """Return a row's leading values, those blank that only repeat the row above."""
    above = rows[index - 1] if index else ("",) * len(row)
    same = True
    shown = []
    for value, before in zip(row, above, strict=True):
        same = same and value == before
        shown.append("" if same else value)
    return shown


def _accuracy(measured: Measured, name: str) -> str:
    record = measured.record
    if record is None:
        return MISSING
    if record.metrics is None:
        return "failed"
    shown = percent(record.metrics.properties[name].balanced_accuracy)
    diverged = record.metrics.diverged
    return f"{shown} ({100 * diverged:.0f} % diverged)" if diverged else shown


def _exactness(measured: Measured) -> str:
    """Return whose features were found exactly, and how long a batch took."""
    record = measured.record
    if record is None:
        return MISSING
    if record.metrics is None or record.cost is None:
        return "failed"
    exact, certificates = record.metrics.exact, record.metrics.certificates
    said = [MISSING if exact is None else percent(exact)]
    if certificates is not None:
        false = f" ({certificates.false} falsely)" if certificates.false else ""
        said.append(f"certified {100 * certificates.share:.1f}{false}")
    said.append(f"{record.cost.seconds / updates_seen(record.cell):.2g} s")
    return ", ".join(said)


def _membership(measured: Measured) -> str:
    """Return how well members of batches are told from others."""
    record = measured.record
    if record is None:
        return MISSING
    if record.metrics is None:
        return "failed"
    told = record.metrics.membership
    return MISSING if told is None else f"{percent(told.auc)}, {percent(told.found)}"


OF_ALL_PROPERTIES: Mapping[str, Callable[[Measured], str]] = {
    "exact": _exactness,
    "membership": _membership,
}
"""Layouts that have no row for each property → what they show."""


def _notes(cells: Sequence[Measured]) -> list[str]:
    """Return a sentence for each attack that has a note, naming all of its columns."""
    columns: dict[str, list[str]] = {}
    for planned in (m.planned for m in cells):
        if note := ATTACKS.get(planned.cell.attack).note:
            named = columns.setdefault(note, [])
            named += [planned.column] * (planned.column not in named)
    return [f"**{', '.join(named)}**: {note}." for note, named in columns.items()]


def _needs(cells: Iterable[Measured]) -> list[str]:
    """Return for each data set without which optional cells are not measured what it needs."""
    absent = dict.fromkeys(
        m.planned.cell.dataset for m in cells if m.planned.optional and m.record is None
    )
    return [
        f"{name} ({MISSING}) needs {DATASETS.get(name).source}; put it into "
        f"DIR/{DATASETS.get(name).folder} and pass --data-root DIR."
        for name in absent
    ]


def reading_aid(cells: Sequence[Measured]) -> str:
    """Return what a reader must know to read the tables, and what is missing from them."""
    lines = [
        "Balanced accuracy in % [95 % bootstrap interval by victim batch, and by identity where "
        "one is shown several times]; chance is 50. "
        "**Prior**: D_aux's majority for everybody. **Blind**: random features of D_aux, matched "
        "to individuals like any attack's, of the batch's labels where they are known; an attack "
        "has learnt only what it earns above this. "
        "**Oracle**: f_p on the true features, the most that any attack through them can earn.",
    ]
    if any(m.planned.layout == "exact" for m in cells):
        lines.append(
            "**Exactness**: % of individuals whose feature was found with a cosine ≥ 0.99 "
            "[interval]; % of individuals whom the attack itself certifies, and, if there are any, "
            "the number of those with a cosine below 0.9999; seconds a victim batch."
        )
    if any(m.planned.layout == "membership" for m in cells):
        lines.append(
            "**Membership**: the attack is shown each batch's individuals and as many others. AUC "
            "in % [interval], chance is 50; then % [interval] of the members who are found where "
            "at most 1 % of the others are taken for members."
        )
    lines += price_aid(cells)
    lines += _notes(cells)
    if any(m.planned.cell.auxiliary_source != m.planned.cell.dataset for m in cells):
        lines.append(
            "Where D_aux comes from another data set, that set may show some of the victims: each "
            "numbers its people for itself. If it has no labels of the main task (see the "
            "settings), whatever draws individuals of D_aux by label draws anybody, and **Blind** "
            "does not account for what known labels alone tell."
        )
    if any(is_implied(m, name) for m in cells for name in m.planned.cell.properties):
        lines.append("† The main task's own label gives this property away.")
    unique = {m.planned.key: m for m in cells}.values()
    missing = sum(m.record is None and not m.planned.optional for m in unique)
    failed = [m for m in unique if m.record is not None and m.record.status == "failed"]
    if missing:
        lines.append(f"{missing} of {len(unique)} cells are not measured yet ({MISSING}).")
    lines += _needs(unique)
    for measured in failed:
        assert measured.record is not None
        lines.append(f"Failed: {describe(measured.planned)}: {measured.record.error}")
    return "\n\n".join(lines)
