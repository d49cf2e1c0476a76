"""A Flower strategy that records its rounds, and what the audit finds in them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from auditing import audited, net, people
from leakbench import record_rounds
from leakbench.base.errors import UsageError

pytest.importorskip("flwr")

RATE = 0.1
VICTIMS = people(8, seed=2)


def trained(model: nn.Module, rows: slice) -> nn.Module:
    """The model after a client's step."""
    own = copy.deepcopy(model)
    assert VICTIMS.labels is not None
    functional.cross_entropy(own(VICTIMS.images[rows]), VICTIMS.labels[rows]).backward()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.sub_(RATE * parameter.grad)  # type: ignore[operator]
    return own


def check_recorded(folder: Path, model: nn.Module, names: list[str]) -> None:
    place = folder / "round-1" / "updates"
    assert sorted(path.stem for path in place.iterdir()) == names
    assert not (folder / "round-2").exists()
    report = audited(
        model,
        place,
        truth=replace(VICTIMS, updates=[names[row // 4] for row in range(8)]),
    )
    assert [update.check for update in report.updates] == ["agrees", "agrees"]
    (found,) = [each for each in report.attacks if not each.control]
    assert (found.certified, found.false_certificates) == (8, 0)


class Newer:
    """A strategy of the Message API, as far as rounds go."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> list[Any]:
        return []

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> int:
        return sum(not reply.has_error() for reply in replies)


@dataclass(frozen=True)
class Reply:
    """A message of a client, whose identity only a running federation gives."""

    content: Any
    metadata: Any
    failed: bool = False

    def has_error(self) -> bool:
        return self.failed


@pytest.mark.parametrize("metric", [None, "client"])
def test_rounds_of_the_message_api_are_recorded_and_audited(
    tmp_path: Path, metric: str | None
) -> None:
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    model, folder = net(), tmp_path / "captured"
    strategy = record_rounds(Newer(), folder, learning_rate=RATE, client_metric=metric)
    replies = [
        Reply(
            RecordDict(
                {
                    "arrays": ArrayRecord(
                        trained(model, slice(4 * number, 4 * number + 4)).state_dict()
                    ),
                    "metrics": MetricRecord({"client": number, "num-examples": 4}),
                }
            ),
            SimpleNamespace(src_node_id=7 + number),
        )
        for number in range(2)
    ]
    replies.append(Reply(None, None, failed=True))
    for server_round in (1, 2):
        arrays = ArrayRecord(model.state_dict())
        assert strategy.configure_train(server_round, arrays, None, None) == []
        assert strategy.aggregate_train(server_round, iter(replies)) == 2
    start = load_file(folder / "round-1" / "weights.safetensors")
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())
    first = 7 if metric is None else 0
    check_recorded(folder, model, [f"client-{first}", f"client-{first + 1}"])


class Older:
    """A strategy of NumPyClients, as far as rounds go."""

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        return []

    def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> int:
        return len(results)


def test_rounds_of_numpy_clients_are_recorded_and_audited(tmp_path: Path) -> None:
    from flwr.common import ndarrays_to_parameters

    def parameters(of: nn.Module) -> Any:
        return ndarrays_to_parameters([value.numpy() for value in of.state_dict().values()])

    model, folder = net(), tmp_path / "captured"
    strategy = record_rounds(Older(), folder, model=model, learning_rate=RATE)
    results = [
        (
            SimpleNamespace(cid=f"{cid}"),
            SimpleNamespace(
                parameters=parameters(trained(model, slice(4 * cid, 4 * cid + 4))),
                num_examples=4,
                metrics={},
            ),
        )
        for cid in range(2)
    ]
    for server_round in (1, 2):
        assert strategy.configure_fit(server_round, parameters(model), None) == []
        assert strategy.aggregate_fit(server_round, results, []) == 2
    check_recorded(folder, model, ["client-0", "client-1"])


def test_what_cannot_be_recorded_is_refused_at_once_and_later_a_warning(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give record_rounds the model, whose names"):
        record_rounds(Older(), tmp_path / "a")
    with pytest.raises(UsageError, match="object is no strategy of Flower's"):
        record_rounds(object(), tmp_path / "a")
    with pytest.raises(UsageError, match="learning_rate"):
        record_rounds(Older(), tmp_path / "a", model=net(), learning_rate=-1.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="full is not empty; give a new folder"):
        record_rounds(Older(), tmp_path / "full", model=net())
    strategy = record_rounds(Older(), tmp_path / "a", model=net())
    with pytest.warns(UserWarning, match=r"weights.safetensors was not recorded"):
        assert strategy.configure_fit(1, "no parameters", None) == []
