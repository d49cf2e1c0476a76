"""The other metrics under the tables: reconstruction by cell, and all of each property's."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.base.markdown import markdown_table
from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.estimates import number, percent
from leakbench.records.measured import Measured
from leakbench.records.record import Certificates, ImageMetrics, Metrics, Record
from leakbench.reports.rows import MISSING, leading_values, varying_settings

NO_WEIGHTS = "no weights"
IMAGE_COLUMNS = ("PSNR, dB", "SSIM", "LPIPS", "≥ 20 dB, %")


def details(cells: Sequence[Measured]) -> str:
    """Return the other metrics: reconstruction by cell, and all of each property's."""
    unique = {m.entry.key: m for m in cells if m.record is not None and m.record.metrics}
    leading = ("data set", "main task", "B")
    varying = varying_settings([m.entry for m in cells], leading)
    fields = [*leading, *(name for name in varying if name in Cell.model_fields)]
    parameters = varying_parameters(cells)
    reconstruction: list[list[str]] = []
    properties: list[list[str]] = []
    for measured in unique.values():
        record, cell = measured.record, measured.entry.cell
        assert record is not None and record.metrics is not None and record.cost is not None
        place = [measured.entry.column, *leading_values(measured, "", fields)]
        place += [text_of(cell.attack_parameters.get(name, MISSING)) for name in parameters]
        control = ATTACKS.get(cell.attack).control
        if control and place in (row[: len(place)] for row in reconstruction):
            continue  # A control that was granted more elsewhere, and used none of it.
        reconstruction.append([*place, *_reconstruction(record.metrics, record)])
        for name, m in record.metrics.properties.items():
            properties.append(
                [
                    *place,
                    name,
                    *(percent(e) for e in (m.accuracy, m.balanced_accuracy, m.auc)),
                    percent(m.count_error),
                    f"{100 * m.prevalence:.0f}",
                ]
            )
    if not unique:
        return ""
    place = ["attack", *fields, *parameters]
    what = ["feature cosine", "exact, %", "certified, % (false)", *IMAGE_COLUMNS]
    what += ["labels right, %", "diverged, %", "steps", "s/batch"]
    each = ["property", "accuracy", "balanced accuracy", "AUC", "count error", "prevalence"]
    return (
        "## Reconstruction\n\nFeature cosine is taken after matching; exact means cosine ≥ 0.99; "
        "certified are whom the attack itself claims to have exactly, in parentheses how many of "
        "these claims have a cosine below 0.9999; "
        "PSNR (at most 100 dB an image), SSIM and LPIPS (AlexNet; 0 is equal) compare images in "
        "that same order, clamped to [0, 1]; steps are gradient evaluations a batch.\n\n"
        f"{markdown_table(reconstruction, [*place, *what])}\n\n"
        f"{_weights_aid(list(unique.values()))}"
        f"{_deployed(list(unique.values()))}"
        "## All metrics by property\n\nIn %; f_p decides at the threshold of balanced accuracy, "
        "also for accuracy and count. Count error is |inferred − true| number of individuals over "
        f"B and needs no matching.\n\n{markdown_table(properties, [*place, *each])}"
    )


def _labels_right(record: Record) -> str:
    assert record.metrics is not None
    share = record.metrics.label_accuracy
    if share is None:
        return MISSING
    return "granted" if "labels" in record.knowledge else f"{100 * share:.1f}"


def varying_parameters(cells: Sequence[Measured]) -> list[str]:
    """Return the parameters of which some column has several values: swept, or a group's own."""
    found: dict[str, dict[str, set[str]]] = {}
    for m in cells:
        for name, value in m.entry.cell.attack_parameters.items():
            found.setdefault(name, {}).setdefault(m.entry.column, set()).add(text_of(value))
    return [name for name, of in found.items() if any(len(values) > 1 for values in of.values())]


def _reconstruction(metrics: Metrics, record: Record) -> list[str]:
    assert record.cost is not None
    batches = ResolvedCell.of(record.cell).updates
    cosine, exact = metrics.feature_cosine, metrics.exact
    return [
        MISSING if cosine is None else number(cosine, 3),
        MISSING if exact is None else percent(exact),
        MISSING if metrics.certificates is None else _certificates(metrics.certificates),
        *_images(metrics.images),
        _labels_right(record),
        f"{100 * metrics.diverged:.0f}",
        f"{record.cost.steps:.0f}",
        f"{record.cost.seconds / batches:.2f}",
    ]


def _certificates(certificates: Certificates) -> str:
    """Return whom the attack claims to have exactly, and how many of these claims are false."""
    return f"{100 * certificates.share:.1f} ({certificates.false})"


def _images(images: ImageMetrics | None) -> list[str]:
    if images is None:
        return [MISSING] * len(IMAGE_COLUMNS)
    return [
        number(images.psnr, 1),
        number(images.ssim, 3),
        NO_WEIGHTS if images.lpips is None else number(images.lpips, 3),
        percent(images.recognisable),
    ]


def _deployed(cells: Sequence[Measured]) -> str:
    """Return how well models that attacks deployed do the main task; nothing where none did."""
    leading = ("data set", "main task")
    fields = [*leading, *varying_settings([m.entry for m in cells], (*leading, "B"))]
    rows: dict[tuple[str, ...], None] = {}
    for m in cells:
        metrics = m.record.metrics if m.record else None
        if metrics is None or metrics.deployed is None:
            continue
        shared = (metrics.main_task["accuracy"], metrics.main_task["most_frequent_class"])
        for name, accuracy in metrics.deployed.items():
            place = (m.entry.column, *leading_values(m, "", fields), name)
            # The victims are the same at every batch size.
            rows.setdefault((*place, *(f"{100 * share:.1f}" for share in (accuracy, *shared))))
    if not rows:
        return ""
    what = ["deployed, %", "shared model, %", "most frequent class, %"]
    return (
        "## Deployed models\n\nMain-task accuracy, on the victims' images, of the models that a "
        "server deployed, trained on D_aux, beside the shared model's, which clients trained.\n\n"
        f"{markdown_table(list(rows), ['attack', *fields, 'model for', *what])}\n\n"
    )


def _weights_aid(cells: Sequence[Measured]) -> str:
    """Return how to get the LPIPS that records lack; nothing where none does."""
    found = [m.record.metrics.images for m in cells if m.record and m.record.metrics]
    if all(images is None or images.lpips is not None for images in found):
        return ""
    return (
        f"“{NO_WEIGHTS}”: LPIPS needs AlexNet's weights; run again with `--lpips-weights PATH`, or "
        "with `--lpips-weights download`, which fetches them (240 MB), to measure these cells "
        "with it.\n\n"
    )
