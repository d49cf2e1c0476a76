"""Audits what a Flower strategy receives, in a simulation: `python flower.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import (
    ArrayRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import save_file
from synthetic_faces import PROPERTIES, Net, synthetic_people
from torch.nn import functional

from leakbench import Report, audit

CLIENTS, BATCH, RATE, STEPS = 6, 4, 0.1, 2

app = ClientApp()


@app.train()
def step(message: Message, context: Context) -> Message:
    """One client's local training: steps of SGD on its whole data."""
    number = int(context.node_config["partition-id"])
    people = synthetic_people(BATCH, first=1000 + BATCH * number)
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(model(people.images), people.labels).backward()
        optimizer.step()
    metrics = MetricRecord({"client": number, "num-examples": BATCH})
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}
    return Message(content=RecordDict(content), reply_to=message)


class Capturing(FedAvg):
    """Federated averaging by a server that saves each client's weights in the first round."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS
        )
        self.folder = folder

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        for reply in replies if server_round == 1 else []:
            number = int(reply.content["metrics"]["client"])
            weights = reply.content["arrays"].to_torch_state_dict()
            save_file(weights, self.folder / f"client-{number}.safetensors")
        return super().aggregate_train(server_round, replies)


def main(folder: Path) -> Report:
    torch.manual_seed(0)
    model = Net()
    updates = folder / "updates"
    updates.mkdir(parents=True)
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        strategy = Capturing(updates)
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=1)

    run_simulation(
        server,
        app,
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    clients = synthetic_people(CLIENTS * BATCH, first=1000)
    batch_of = [f"client-{row // BATCH}" for row in range(len(clients))]
    report = audit(
        model,
        split="features",
        updates=updates,
        auxiliary=synthetic_people(1000),
        properties=PROPERTIES,
        truth=replace(clients, updates=batch_of),
        # Clients send their weights after two steps; the server sets their learning rate.
        kind="weights",
        learning_rate=RATE,
        local_steps=STEPS,
        attacks=["feature_lbfgs"],
        defenses=[],
        budget=50,
    )
    report.write(folder)
    return report


if __name__ == "__main__":
    print(main(Path(sys.argv[1])).summary)
