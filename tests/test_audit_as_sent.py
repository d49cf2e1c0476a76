"""Without a further defense an audit's attacks on the updates as sent are not run a second time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from auditing import audited, by_name, gradients, in_batches, net, people
from leakbench.auditing import attacking
from leakbench.auditing.client_batches import Batch

SHORT: Any = {"feature": {"budget": 2, "labels": "counts"}}
NOISE = [{"name": "gaussian", "sigma": 1.0}]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The defenses of the batches of each run of an attack, controls left out."""
    runs: list[list[str]] = []
    run = attacking._attacked

    def counted(case: Any, attack: Any, batches: Sequence[Batch], *others: Any) -> Any:
        if not attack.control:
            runs.append([batch.defense.name for batch in batches])
        return run(case, attack, batches, *others)

    monkeypatch.setattr(attacking, "_attacked", counted)
    return runs


def test_the_row_none_is_the_attack_on_what_was_sent(ran: list[list[str]]) -> None:
    victims, model = people(8, seed=2), net()
    truth = in_batches(victims, 4)
    sent = gradients(model, victims, 4)
    report = audited(model, sent, truth=truth, attacks=SHORT, defenses=NOISE)
    assert ran == [["none", "none"], ["gaussian", "gaussian"]]
    none, noisy = report.defenses
    assert by_name(none.attacks) == by_name(report.attacks)
    assert (none.individuals, none.left_out, none.distortion) == (8, 0, None)
    assert by_name(noisy.attacks)["feature"].metrics != by_name(none.attacks)["feature"].metrics


def test_batches_without_a_truth_are_left_out_of_it(ran: list[list[str]]) -> None:
    victims, model = people(12, seed=2), net()
    truth = in_batches(people(12, seed=2), 4)
    assert truth.updates is not None
    known = [name if name != "client 1" else "" for name in truth.updates]
    sent = gradients(model, victims, 4)
    report = audited(
        model,
        sent,
        truth=type(truth)(**{**vars(truth), "updates": known}),
        batch_size=4,
        attacks=SHORT,
        defenses=NOISE,
    )
    assert ran == [["none"] * 3, ["gaussian"] * 2]
    none = report.defenses[0]
    assert none.individuals == 8 and not none.refused
    assert by_name(none.attacks)["feature"].metrics == by_name(report.attacks)["feature"].metrics


def test_clients_are_simulated_where_updates_are_not_what_the_model_computes(
    ran: list[list[str]],
) -> None:
    victims, model = people(8, seed=2), net()
    doubled = {
        client: {name: 2 * value for name, value in update.items()}
        for client, update in gradients(model, victims, 4).items()
    }
    report = audited(model, doubled, truth=in_batches(victims, 4), attacks=SHORT, defenses=NOISE)
    assert ran == [["none", "none"], ["none", "none"], ["gaussian", "gaussian"]]
    assert report.defenses[0].label == "none, simulated: not the captured updates"
