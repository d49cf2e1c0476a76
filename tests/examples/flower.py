"""Audits what a Flower strategy receives, in a simulation: `python flower.py FOLDER`.

A model that leaks everybody's exact features, and a defense that stops it.
"""

from __future__ import annotations

import sys
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
from synthetic_faces import PROPERTIES, Net, synthetic_people
from torch.nn import functional

from leakbench import Report, audit, record_rounds

CLIENTS, BATCH, RATE, STEPS = 6, 4, 0.1, 1

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


def main(folder: Path) -> Report:
    torch.manual_seed(0)
    model = Net()
    captured = folder / "captured"
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS
        )
        # The server sets the learning rate and steps; the files say so, for the audit.
        record_rounds(
            strategy, captured, learning_rate=RATE, local_steps=STEPS, client_metric="client"
        )
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=2)

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
        updates=captured / "round-1" / "updates",
        auxiliary=synthetic_people(1000),
        properties=PROPERTIES,
        truth=replace(clients, updates=batch_of),
        attacks=["mask_demixing"],
        defenses=[{"name": "gaussian", "sigma": 0.5}],
        quick=True,
    )
    report.write(folder)
    return report


if __name__ == "__main__":
    print(main(Path(sys.argv[1])).summary)
