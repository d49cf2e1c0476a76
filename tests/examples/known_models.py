"""What a quick audit says of models that people deploy, as a table in Markdown.

Run it as `python known_models.py [NAME …] [--out FOLDER]`; it takes minutes. Everybody is
synthetic: images of noise, rows and texts with random labels. Models have random weights, trained
for a few steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from torchvision import models

from leakbench import LabelledImages, Report, audit

CLASSES, SIZE, BATCH, CLIENTS = 4, 32, 2, 6
COLUMNS, WORDS, LENGTH = 24, 200, 16
MINUTES = 60  # In place of 90 s, so that a busy machine gives the same table.


class Tokens(nn.Module):
    """A text classifier: the mean embedding of the tokens, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32)
        self.hidden, self.output = nn.Linear(32, 96), nn.Linear(96, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(functional.relu(self.hidden(self.embedding(tokens).mean(1))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def images(bright: Tensor) -> Tensor:
    return 0.5 * torch.rand(len(bright), 3, SIZE, SIZE) + 0.4 * bright[:, None, None, None]


def rows(old: Tensor) -> Tensor:
    return torch.randn(len(old), COLUMNS) + old[:, None]


def texts(short: Tensor) -> Tensor:
    """Token ids, of which a property's first half of the vocabulary is typical."""
    return torch.randint(WORDS // 2, (len(short), LENGTH)) + (WORDS // 2) * short.long()[:, None]


Maker = Callable[[], nn.Module]

KINDS: dict[str, tuple[Maker, Callable[[Tensor], Tensor]]] = {
    "ResNet-18": (lambda: models.resnet18(num_classes=CLASSES), images),
    "MobileNetV3-Small": (lambda: models.mobilenet_v3_small(num_classes=CLASSES), images),
    "EfficientNet-B0": (lambda: models.efficientnet_b0(num_classes=CLASSES), images),
    "ViT-B/16": (lambda: models.vit_b_16(image_size=SIZE, num_classes=CLASSES), images),
    "tabular MLP": (mlp, rows),
    "token classifier": (Tokens, texts),
}


def individuals(made: Callable[[Tensor], Tensor], count: int) -> LabelledImages:
    present = torch.arange(count) % 2 == 0
    labels = torch.randint(CLASSES, (count,))
    return LabelledImages(images=made(present), labels=labels, properties={"present": present})


def trained(model: nn.Module, on: LabelledImages, steps: int = 10) -> nn.Module:
    """Train for a few steps, and set BatchNorm's running statistics as many steps would.

    With those of initialisation the outputs of deep networks are the same for everybody.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(steps):
        rows = torch.randint(len(on), (16,))
        assert on.labels is not None
        optimiser.zero_grad()
        functional.cross_entropy(model(on.images[rows]), on.labels[rows]).backward()
        optimiser.step()
    update_bn(on.images.split(20), model)
    return model.eval()


def audited(name: str) -> Report:
    torch.manual_seed(0)
    make, made = KINDS[name]
    others = individuals(made, 100)
    model = trained(make(), others)
    victims = individuals(made, BATCH * CLIENTS)
    return audit(
        model,
        auxiliary=others,
        truth=victims,
        batch_size=BATCH,
        properties=["present"],
        quick=True,
        time_limit=MINUTES,
        name=name,
        on_status=lambda text: print(f"{name}: {text}", file=sys.stderr),
    )


def row(name: str, out: Path | None) -> str:
    began = time.process_time()
    report = audited(name)
    seconds = time.process_time() - began
    if out is not None:
        report.write(out / name.replace("/", "-").replace(" ", "-"))
    ran = [a for a in report.attacks if not a.control and not a.refused]
    certified = [each for each in report.exposed if each.certified_by]
    exact = certified or [each for each in report.exposed if each.exact_by]
    found = "none"
    if exact:
        (by, *_) = exact[0].certified_by or exact[0].exact_by
        found = f"{len(exact)} of {report.individuals} by {by}"
        found += "" if certified else ", not certified"
    false = sum(a.false_certificates or 0 for a in ran)
    return (
        f"| {name} | {report.model.trained:,} | `{report.model.split}` | "
        f"{report.model.features} | {found} | {false} | {report.verdict.outcome} | "
        f"{seconds:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of models; all by default")
    parser.add_argument("--out", type=Path, help="folder for the audits' pages")
    given = parser.parse_args()
    if unknown := set(given.names) - set(KINDS):
        parser.error(f"unknown model {min(unknown)!r}; the models are {', '.join(KINDS)}")
    torch.set_num_threads(1)
    print(
        "| model | parameters | head begins at | deep features | exact features | false "
        "| verdict | CPU seconds |\n|---|---|---|---|---|---|---|---|"
    )
    for chosen in given.names or KINDS:
        print(row(chosen, given.out), flush=True)
