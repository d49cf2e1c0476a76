"""Records what a Flower server sends and receives, in the files that `leakbench audit` reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from leakbench.auditing.updates import UpdateFormat
from leakbench.base.errors import UsageError
from leakbench.base.plugins import sentence

StrategyT = TypeVar("StrategyT")


def record_rounds(
    strategy: StrategyT,
    folder: Path | str,
    *,
    rounds: Collection[int] | None = (1,),
    model: nn.Module | None = None,
    client_metric: str | None = None,
    **update_format: Any,
) -> StrategyT:
    """Return the strategy, which from now on records its rounds; training is not changed.

    Of round 1 the folder gets `round-1/weights.safetensors`, the weights that clients start from,
    and `round-1/updates/client-NODE.safetensors` for the weights that each client returns. They
    hold what can be read of the clients' data: keep them as those. What cannot be written, or is of
    no known form, is a warning, and training goes on.

    Args:
        strategy: of the Message API (`flwr.serverapp.strategy`), or an older one whose clients are
            NumPyClients (`flwr.server.strategy`).
        folder: that does not exist yet, or is empty.
        rounds: to record; None for all.
        model: whose names the weights get; needed for NumPyClients, which send lists.
        client_metric: a metric of clients' replies that names their files, in place of the node.
        update_format: what clients do, such as `learning_rate` and `local_steps`; see
            `leakbench.auditing.updates.UpdateFormat`.

    Raises:
        UsageError: the strategy is of another kind, the folder is not empty, or there is no model
            where one is needed.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} is not empty; give a new folder to record rounds in")
    try:
        checked = UpdateFormat(kind="weights", **update_format)
    except ValidationError as error:
        raise UsageError(sentence(error)) from None
    header = checked.model_dump(exclude_defaults=True, exclude_none=True)
    tap = _Tap(place, rounds, model, client_metric, {key: str(v) for key, v in header.items()})
    if hasattr(strategy, "aggregate_train"):
        tap.wrap(strategy, "configure_train", tap.sent)
        tap.wrap(strategy, "aggregate_train", tap.replied)
    elif hasattr(strategy, "aggregate_fit"):
        if model is None:
            raise UsageError(
                "NumPyClients send lists without names; give record_rounds the model, whose names "
                "the tensors get"
            )
        tap.wrap(strategy, "configure_fit", tap.sent)
        tap.wrap(strategy, "aggregate_fit", tap.fitted)
    else:
        raise UsageError(
            f"{type(strategy).__name__} is no strategy of Flower's: it has neither aggregate_train "
            f"nor aggregate_fit"
        )
    return strategy


@dataclass
class _Tap:
    """Where and what to record; see `record_rounds`."""

    folder: Path
    rounds: Collection[int] | None
    model: nn.Module | None
    client_metric: str | None
    header: Mapping[str, str]

    def wrap(self, strategy: Any, name: str, record: Callable[[int, Any], Any]) -> None:
        """Let a method of a strategy record its second argument before it runs."""
        method = getattr(strategy, name)

        def recording(_: Any, server_round: int, given: Any, *rest: Any, **more: Any) -> Any:
            if self.rounds is None or server_round in self.rounds:
                given = record(server_round, given)
            return method(server_round, given, *rest, **more)

        setattr(strategy, name, MethodType(recording, strategy))

    def sent(self, server_round: int, arrays: Any) -> Any:
        """Record the weights that clients start from."""
        self._save(server_round, "weights", lambda: self._tensors(arrays), {})
        return arrays

    def replied(self, server_round: int, replies: Iterable[Any]) -> Sequence[Any]:
        """Record clients' replies of the Message API, whose errors are left out."""
        kept = list(replies)  # They may come from a generator.
        for reply in kept:
            if reply.has_error():
                continue
            content = reply.content
            metrics: Mapping[str, Any] = next(iter(content.metric_records.values()), {})
            number = metrics.get(self.client_metric or "", reply.metadata.src_node_id)
            arrays = next(iter(content.array_records.values()), None)
            self._client(server_round, number, arrays, metrics.get("num-examples"))
        return kept

    def fitted(self, server_round: int, results: Sequence[Any]) -> Sequence[Any]:
        """Record the results of NumPyClients."""
        for proxy, result in results:
            number = result.metrics.get(self.client_metric, proxy.cid)
            self._client(server_round, number, result.parameters, result.num_examples)
        return results

    def _client(self, server_round: int, number: Any, arrays: Any, examples: Any) -> None:
        header = dict(self.header)
        if examples is not None and "batch_size" not in header:
            header["batch_size"] = str(int(examples))
        name = f"updates/client-{number}"
        self._save(server_round, name, lambda: self._tensors(arrays), header)

    def _tensors(self, arrays: Any) -> dict[str, Tensor]:
        """Return arrays of either interface by name.

        Raises:
            ValueError: their number is not that of the model's tensors.
        """
        if hasattr(arrays, "to_torch_state_dict"):
            return dict(arrays.to_torch_state_dict())
        from flwr.common import parameters_to_ndarrays

        assert self.model is not None
        names, values = list(self.model.state_dict()), parameters_to_ndarrays(arrays)
        found = zip(names, values, strict=True)
        return {name: torch.as_tensor(value) for name, value in found}

    def _save(
        self,
        server_round: int,
        name: str,
        tensors: Callable[[], dict[str, Tensor]],
        header: Mapping[str, str],
    ) -> None:
        path = self.folder / f"round-{server_round}" / f"{name}.safetensors"
        try:
            whole = {key: value.detach().clone().contiguous() for key, value in tensors().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(whole, path, metadata={"kind": "weights", **header} if header else None)
        except Exception as error:  # A recording must not end the federation.
            warnings.warn(f"{path} was not recorded: {error}", stacklevel=2)
