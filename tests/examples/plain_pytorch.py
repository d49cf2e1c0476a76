"""Audits the gradients of a plain PyTorch loop: `python plain_pytorch.py FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from drawn import PROPERTIES, Net, drawn_people
from safetensors.torch import save_file
from torch.nn import functional

from leakbench import Report, audit

BATCH = 4


def main(folder: Path) -> Report:
    torch.manual_seed(0)
    model = Net()
    clients = drawn_people(64, first=1000)

    # What the clients send: the gradient of the mean loss over a batch, a file each.
    (folder / "updates").mkdir(parents=True)
    batch_of = []
    for number in range(len(clients) // BATCH):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        loss = functional.cross_entropy(model(clients.images[rows]), clients.labels[rows])
        model.zero_grad()
        loss.backward()
        gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
        save_file(gradient, folder / "updates" / f"client-{number}.safetensors")
        batch_of += [f"client-{number}"] * BATCH

    report = audit(
        model,
        split="features",
        updates=folder / "updates",
        auxiliary=drawn_people(1000),
        properties=PROPERTIES,
        truth=replace(clients, updates=batch_of),
        attacks=["mask_demixing"],
        defenses=[{"name": "gaussian", "sigma": 0.01}],
        budget=50,
    )
    report.write(folder)
    return report


if __name__ == "__main__":
    print("\n".join(main(Path(sys.argv[1])).findings))
