"""Individuals on whom the model errs most are reported apart, beside the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from auditing import DEMIXING, audited, gradients, in_batches, net, people
from leakbench import Report
from leakbench.auditing.worst_case import worst_case, worst_case_text
from leakbench.base.errors import UsageError
from leakbench.metrics.estimates import Bootstrap, batches_of

VICTIMS = people(8, seed=2)


def audited_apart(hardest: int) -> Report:
    model = net()
    return audited(
        model,
        gradients(model, VICTIMS, 4),
        truth=in_batches(VICTIMS, 4),
        attacks={"mask_demixing": DEMIXING},
        hardest=hardest,
    )


def test_the_hardest_are_those_with_the_largest_gradient_by_the_logits(tmp_path: Path) -> None:
    report = audited_apart(3)
    assert report.hardest is not None and VICTIMS.labels is not None
    with torch.no_grad():
        logits = net()(VICTIMS.images)
    errors = (logits.softmax(1) - functional.one_hot(VICTIMS.labels, 4)).norm(dim=1)
    rows = errors.argsort(descending=True)[:3].tolist()
    wanted = [f"individual {row + 1} of update client {row // 4}" for row in rows]
    assert report.hardest.names == wanted
    assert (report.hardest.exact, report.hardest.others_exact, report.hardest.others) == (3, 5, 5)
    said = "Of the 3 individuals on whom the model errs most, 3 are exposed, 3 by an exact feature"
    assert said in report.summary and wanted[0] not in report.summary
    page = report.write(tmp_path)[0].read_text(encoding="utf-8")
    assert said in page and wanted[0] in page


def test_nobody_is_reported_apart_unless_asked_for() -> None:
    report = audited_apart(0)
    assert report.hardest is None
    assert [case.hardest for case in report.worst_cases] == [0]


@pytest.mark.parametrize("count", [-1, 8])
def test_a_number_that_leaves_no_others_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=rf"hardest is {count}; .* less than the 8 individuals"):
        audited_apart(count)


def test_without_the_truth_nobody_is_known_to_be_hard() -> None:
    model = net()
    with pytest.raises(UsageError, match="hardest is 2, but there is no truth"):
        audited(model, gradients(model, VICTIMS, 4), batch_size=4, hardest=2)


def test_the_rate_of_the_hardest_is_at_the_threshold_of_everybody_without_the_property() -> None:
    present = np.arange(200) < 100
    hardest = np.isin(np.arange(200), [*range(10), *range(100, 110)])
    # The hardest ten are told; of the others with the property nobody is.
    scores = np.where(present & hardest, 0.9, np.where(present, 0.1, 0.5))[None]
    bootstrap = Bootstrap([batches_of(20, 10)], 0)
    everybody = worst_case("bright", present, {"Ours": scores}, {}, bootstrap)
    apart = worst_case("bright", present, {"Ours": scores}, {}, bootstrap, hardest)
    assert everybody.rate is not None and everybody.rate.value == pytest.approx(0.1)
    assert apart.rate is not None and apart.rate.value == pytest.approx(1.0)
    assert (apart.present, apart.absent, apart.hardest) == (10, 100, 20)
    assert worst_case_text(apart).startswith(
        "bright, of the 20 individuals on whom the model errs most: at 1 % false positives Ours "
    )


def test_a_property_that_none_of_the_hardest_has_is_a_sentence() -> None:
    present = np.arange(200) < 100
    scores = np.full((1, 200), 0.5)
    bootstrap = Bootstrap([batches_of(20, 10)], 0)
    found = worst_case("bright", present, {"Ours": scores}, {}, bootstrap, ~present)
    assert "since no individual of these has it." in worst_case_text(found)
