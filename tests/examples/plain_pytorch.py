"""Audits the gradients of a plain PyTorch loop: `python plain_pytorch.py FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from synthetic_faces import PROPERTIES, Net, synthetic_people
from torch.nn import functional

from leakbench import Report, audit

BATCH = 4


def main(folder: Path) -> Report:
    torch.manual_seed(0)
    model = Net()
    clients = synthetic_people(32, first=1000)

    # Each client sends the gradient of the mean loss over its batch, in a file.
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
        auxiliary=synthetic_people(1000),
        properties=PROPERTIES,
        truth=replace(clients, updates=batch_of),
        attacks=["mask_demixing"],
        defenses=[{"name": "gaussian", "sigma": 0.01}],
        budget=50,
    )
    report.write(folder)
    return report


if __name__ == "__main__":
    print(main(Path(sys.argv[1])).summary)
