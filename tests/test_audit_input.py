"""Input that an audit refuses or leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import leakbench
from auditing import (
    VICTIMS,
    audited,
    by_name,
    gradients,
    in_batches,
    net,
    people,
)
from leakbench.base.errors import UsageError


def test_what_cannot_be_audited_is_left_out_and_the_rest_goes_on() -> None:
    model, aux = net(), people(120, seed=1)
    sent = gradients(model, VICTIMS, 4)
    sent["client 1"]["head.3.bias"] = torch.full((4,), torch.nan)
    sent["client 2"]["head.3.bias"] = torch.zeros(3)
    messages: list[str] = []
    report = audited(
        model,
        sent,
        truth=in_batches(VICTIMS, 4),
        auxiliary=replace(aux, properties={**aux.properties, "never": torch.zeros(120)}),
        properties=("bright", "glasses", "never"),
        on_status=messages.append,
    )
    assert [update.name for update in report.updates] == [f"client {row}" for row in (0, 3, 4, 5)]
    assert by_name(report.attacks)["mask_demixing"].certified == 16
    assert list(report.auxiliary.properties) == ["bright"]
    for said in (
        "D_aux has no property 'glasses'; it has bright",
        "in D_aux the property 'never' is never present",
        "tensor 'head.3.bias' of update 'client 1' holds NaN",
        "update 'client 2' does not fit the model",
    ):
        assert any(limitation.startswith(f"Left out: {said}") for limitation in report.limitations)
        assert any(line.startswith(f"left out: {said}") for line in messages)


def test_the_documented_import_is_the_audit() -> None:
    with pytest.raises(UsageError, match="there is nothing to audit"):
        leakbench.audit(net(), "features", None, people(12), ("bright",))


def refused(message: str, **changed: object) -> None:
    model = net()
    arguments: dict[str, object] = {"truth": in_batches(people(4, seed=2), 4)} | changed
    with pytest.raises(UsageError, match=message):
        audited(model, gradients(model, people(4, seed=2), 4), **arguments)


def test_bad_input_is_refused_in_a_sentence() -> None:
    four = in_batches(people(4, seed=2), 4)
    aux = people(120, seed=1)
    refused("D_aux has no property 'brigt'; it has bright", properties=("brigt",))
    refused("give at least one property", properties=())
    refused(
        "label 4 of individual 2 in the truth is no class: the model has 4, from 0 to 3",
        truth=replace(four, labels=torch.tensor([0, 4, 1, 1])),
    )
    refused(
        "label -2 of individual 1 in D_aux is no class",
        auxiliary=replace(aux, labels=torch.full((120,), -2)),
    )
    refused(
        "the property 'bright' is never present",
        auxiliary=replace(aux, properties={"bright": torch.zeros(120)}),
    )
    refused(
        "must be 0 or 1 for each individual",
        auxiliary=replace(aux, properties={"bright": torch.full((120,), 2)}),
    )
    refused(
        r"'bright' of D_aux has shape \(3,\), but there are 120 images",
        auxiliary=replace(aux, properties={"bright": torch.ones(3)}),
    )
    refused("pixels of D_aux must be in", auxiliary=replace(aux, images=255 * aux.images))
    refused("fewer than 3 people", auxiliary=replace(aux, identities=torch.zeros(120).long()))
    refused("in update 'nobody', which does not exist", truth=replace(four, updates=["nobody"] * 4))
    refused("no labels of the main task", truth=replace(four, labels=None))
    refused("no submodule 'feature'", split="feature")
    refused("unknown attack 'mask_demixin'", attacks=["mask_demixin"])
    refused("unknown defense 'gausian'", defenses=[{"name": "gausian"}])
    refused("has no name", defenses=[{"sigma": 1.0}])
    refused("mode: ", mode="training")
    refused("pixel_mean has 2 numbers, but images have 3 channels", pixel_mean=(0.5, 0.5))
    refused("needs to know outputs", attacks={"hcn": {}})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attacks": []}, "give at least one attack"),
        ({"attacks": {}}, "give at least one attack"),
        ({"attacks": ["blind"]}, "give at least one attack"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available here"),
        ({"device": "gpu"}, "device 'gpu' is not available here"),
        ({"names": ["one"]}, "'names' of the truth has 1 entries, but there are 4 images"),
        ({"updates": ["client 0"]}, "'updates' of the truth has 1 entries"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "the truth has no images"),
        ({"labels": torch.tensor([0, 0.5, 1, 1])}, "label 0.5 of individual 2 in the truth"),
        ({"labels": torch.full((4,), torch.nan)}, "label nan of individual 1 in the truth"),
        ({"identities": torch.full((4,), 0.5)}, "identities of the truth must be whole numbers"),
    ],
)
def test_what_the_audit_cannot_take_is_a_sentence(changed: dict[str, Any], said: str) -> None:
    if not changed.keys() & {"attacks", "device"}:
        changed = {"truth": replace(in_batches(people(4, seed=2), 4), **changed)}
    refused(said, **changed)


@pytest.mark.parametrize("kind", [torch.int32, torch.float32, torch.float64])
def test_labels_and_images_of_any_precision_are_taken(kind: torch.dtype) -> None:
    four, aux = in_batches(people(4, seed=2), 4), people(120, seed=1)
    assert four.labels is not None and aux.labels is not None
    model = net()
    images = four.images if kind is torch.int32 else four.images.to(kind)
    report = audited(
        model,
        gradients(model, people(4, seed=2), 4),
        truth=replace(
            four, labels=four.labels.to(kind), images=images, identities=torch.arange(4).to(kind)
        ),
        auxiliary=replace(aux, labels=aux.labels.to(kind)),
    )
    assert report.attacks[-1].certified == 4
    same = aux.images.clone()
    same[3] = four.images[1]
    refused(
        "individual 2 of the truth is in D_aux too",
        truth=replace(four, images=images),
        auxiliary=replace(aux, images=same.double()),
    )


def test_nobody_of_the_truth_may_be_in_d_aux() -> None:
    aux, four = people(120, seed=1), in_batches(people(4, seed=2), 4)
    images = aux.images.clone()
    images[7] = four.images[2]
    refused("individual 3 of the truth is in D_aux too", auxiliary=replace(aux, images=images))
    refused(
        r"individual 2 of the truth is a person that D_aux shows too \(identity 5\)",
        auxiliary=replace(aux, identities=torch.arange(120)),
        truth=replace(four, identities=torch.tensor([200, 5, 201, 202])),
    )
