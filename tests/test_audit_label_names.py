"""Main-task labels in a report: classes by their names, sets of labels as sets."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from auditing import audited
from leakbench.auditing.html_page import html_page
from leakbench.auditing.label_texts import label_texts
from leakbench.base.errors import UsageError
from leakbench.federation.loss import Loss
from made_reports import SHOWN, attack, report, update
from tables import individuals, tabular

SETS = tuple(product((0.0, 1.0), repeat=2))
CLASSES = Loss(link="identity", table=((1.0, 0.0), (0.0, 1.0)))
ONE_LOGIT = Loss(link="sigmoid", table=((0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("loss", "names", "texts"),
    [
        (Loss(), ["bird", "car"], ["bird", "car"]),
        (Loss(), [], []),
        (CLASSES, ["bird", "car"], ["bird", "car"]),
        (ONE_LOGIT, ["well", "ill"], ["well", "ill"]),
        (
            Loss(link="sigmoid", table=SETS),
            ["beak", "tail"],
            ["{}", "{tail}", "{beak}", "{beak, tail}"],
        ),
        (Loss(link="sigmoid", table=SETS), [], ["{}", "{1}", "{0}", "{0, 1}"]),
        (Loss(table=((0.7, 0.3),)), [], ["(0.7, 0.3)"]),
        (Loss(table=((0.7, 0.3),)), ["bird", "car"], ["(bird 0.7, car 0.3)"]),
    ],
)
def test_labels_as_text(loss: Loss, names: list[str], texts: list[str]) -> None:
    assert label_texts(loss, loss.classes(2), names) == texts


@pytest.mark.parametrize(
    ("loss", "names", "said"),
    [
        (Loss(), ["bird"], "label_names has 1 names, but the model has 2 classes"),
        (Loss(link="sigmoid", table=SETS), ["a", "b", "c"], "3 names, but the model has 2 logits"),
        (Loss(), ["bird", "bird"], "label_names has the same name twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(loss: Loss, names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        label_texts(loss, loss.classes(2), names)


def test_the_page_shows_names() -> None:
    made = report([attack("ours", {"bright": SHOWN})], [update("a", [{}])])
    assert "class 0" in html_page(made)
    for labels, shown in ((["bird", "car"], "class bird"), (["{beak}", "{}"], "labels {beak}")):
        model = made.model.model_copy(update={"labels": labels})
        assert shown in html_page(made.model_copy(update={"model": model}))


def test_an_audit_takes_names_of_sets_of_labels() -> None:
    def people(count: int, seed: int) -> object:
        found = individuals("rows", count, seed)
        assert found.labels is not None
        both = torch.stack([found.labels > 1, found.labels % 2 == 0], dim=1).float()
        return replace(found, labels=both)

    report = audited(
        tabular(2),
        None,
        split=None,
        auxiliary=people(60, 1),
        truth=people(8, 2),
        properties=["old"],
        batch_size=4,
        loss=nn.BCEWithLogitsLoss(),
        label_names=["beak", "tail"],
    )
    assert report.model.labels == ["{}", "{tail}", "{beak}", "{beak, tail}"]
    assert all(i.label is not None and i.label < 4 for u in report.updates for i in u.individuals)
