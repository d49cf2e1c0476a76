"""Models of tables and texts, and people whose rows or texts tell a property, for audits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench import LabelledImages

COLUMNS, VOCABULARY, TOKENS = 20, 50, 12


def tabular(logits: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, logits))


class Texts(nn.Module):
    """The mean of token embeddings, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32, padding_idx=0)
        self.hidden = nn.Linear(32, 96)
        self.output = nn.Linear(96, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens != 0).unsqueeze(-1)
        seen = (self.embedding(tokens) * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self.output(functional.relu(self.hidden(seen)))


def texts() -> nn.Module:
    torch.manual_seed(0)
    return Texts()


def individuals(kind: str, count: int, seed: int, classes: int = 4) -> LabelledImages:
    """Rows whose first column, or texts whose tokens, tell the property `old`."""
    draw = torch.Generator().manual_seed(seed)
    old = torch.arange(count) % 2 == 0
    rows = 3 * torch.randn(count, COLUMNS, generator=draw) - 1
    rows[:, 0] = 10 * torch.where(old, 1, -1)
    words = torch.randint(1, VOCABULARY - 10, (count, TOKENS), generator=draw)
    words[:, :4] += 10 * old[:, None]
    words[:, -2:] = 0
    return LabelledImages(
        images=rows if kind == "rows" else words,
        labels=torch.randint(classes, (count,), generator=draw),
        properties={"old": old},
    )


def losing(
    model: nn.Module, criterion: Callable[[Any, Any], Any], inputs: Any, labels: Tensor
) -> dict[str, Tensor]:
    """The gradient of a loss by parameter name."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    names, parameters = zip(*trained, strict=True)
    binary = isinstance(criterion, nn.BCEWithLogitsLoss) and labels.ndim == 1
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    loss = criterion(model(*given), labels[:, None].float() if binary else labels)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
