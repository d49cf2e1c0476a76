"""Audits the updates of DP-SGD with Opacus: `python opacus_dp_sgd.py FOLDER`."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from safetensors.torch import save_file
from synthetic_faces import PROPERTIES, Net, synthetic_people
from torch.nn import functional

from leakbench import Report, audit

BATCH, CLIP, NOISE = 4, 1.0, 1.0

# PyTorch warns because Opacus hooks the backward pass of images that need no gradient.
warnings.filterwarnings("ignore", "Full backward hook is firing")


def main(folder: Path, noise: float = NOISE) -> Report:
    torch.manual_seed(0)
    model = Net()
    private = GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(private.parameters(), lr=0.1),
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        expected_batch_size=BATCH,
        generator=torch.Generator().manual_seed(0),
    )
    clients = synthetic_people(24, first=1000)

    # Each client sends the clipped and noised gradient that its optimiser would step along.
    (folder / "updates").mkdir(parents=True)
    batch_of = []
    for number in range(len(clients) // BATCH):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        functional.cross_entropy(private(clients.images[rows]), clients.labels[rows]).backward()
        optimizer.pre_step()
        update = {name: p.grad.clone() for name, p in private.named_parameters()}
        save_file(update, folder / "updates" / f"client-{number}.safetensors")
        optimizer.zero_grad()
        batch_of += [f"client-{number}"] * BATCH

    report = audit(
        model,
        split="features",
        updates=folder / "updates",
        auxiliary=synthetic_people(1000),
        properties=PROPERTIES,
        truth=replace(clients, updates=batch_of),
        # The server knows the clients' defense; attacks adapt to it.
        defense={"name": "dp_sgd", "clip": CLIP, "noise": noise},
        attacks=["feature_lbfgs"],
        defenses=[],
        budget=20,
    )
    report.write(folder)
    return report


if __name__ == "__main__":
    print(main(Path(sys.argv[1])).summary)
