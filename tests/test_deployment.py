"""What a server learns through a model that it deploys: K numbers an individual, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.evaluation.scoring import Run, _deployed_accuracy
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.attack import AttackResult
from leakbench.threat.deployment import serve
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth, Observation, observe
from leakbench.threat.server import Server
from leakbench.threat.validation import check_results

SERVER = Server(classes=3, image_shape=(3, 4, 4), properties=("gender",))


class Spying(nn.Module):
    """Keeps what it sees; answers with the image's first three pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.noise = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.noise(images.flatten(1)[:, :3])


def attack(models: Mapping[str, nn.Module]) -> object:
    return SimpleNamespace(name="stub", deploy=lambda server, progress: models)


def served(model: nn.Module, batches: list[Tensor]) -> list[dict[str, Tensor]]:
    return serve(attack({"m": model}), SERVER, batches, lambda share: None)  # type: ignore[arg-type]


def test_outputs_come_in_order_from_evaluation_mode_and_nothing_stays_with_the_attack() -> None:
    model = Spying().train()
    batches = [torch.rand(2, 3, 4, 4), torch.rand(5, 3, 4, 4)]
    outputs = served(model, batches)
    for images, found in zip(batches, outputs, strict=True):
        assert torch.equal(found["m"], images.flatten(1)[:, :3])
    assert model.seen == []
    assert model.training


def test_an_answer_does_not_depend_on_who_else_is_served() -> None:
    class Comparing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - images.mean(0)).flatten(1)[:, :3]

    assert torch.equal(served(Comparing(), [torch.rand(4, 3, 4, 4)])[0]["m"], torch.zeros(4, 3))


@pytest.mark.parametrize(
    "model",
    [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), nn.Identity()],
    ids=["all pixels", "too few", "the image"],
)
def test_an_output_of_another_shape_is_refused(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"'stub' deploys a model 'm'.*3 finite numbers"):
        served(model, [torch.rand(2, 3, 4, 4)])


def test_outputs_that_are_not_finite_are_refused() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 3), torch.nan)

    with pytest.raises(UsageError, match="NaN or infinity"):
        served(Broken(), [torch.rand(1, 3, 4, 4)])


def truth(size: int = 2) -> GroundTruth:
    return GroundTruth(
        images=torch.rand(size, 3, 4, 4),
        labels=torch.arange(size) % 3,
        features=torch.rand(size, 4),
        properties={"gender": torch.zeros(size, dtype=torch.bool)},
        identities=torch.arange(size),
    )


def test_outputs_are_seen_where_they_are_granted_only() -> None:
    outputs = {"m": torch.rand(2, 3)}
    seen = observe(truth(), {}, Knowledge.OUTPUTS, 0, outputs=outputs).outputs
    assert seen is not None
    assert torch.equal(seen["m"], outputs["m"])
    assert seen["m"] is not outputs["m"]
    assert observe(truth(), {}, ~Knowledge.OUTPUTS, 0, outputs=outputs).outputs is None


def test_individuals_may_be_distinguished_by_outputs_only() -> None:
    answer = [AttackResult(scores={"gender": torch.tensor([0.1, 0.9])})]
    seen = Observation(batch_size=2, seed=0, outputs={"m": torch.rand(2, 3)})
    check_results("stub", answer, [seen], SERVER)
    with pytest.raises(UsageError, match="no features to tell individuals apart"):
        check_results("stub", answer, [replace(seen, outputs=None)], SERVER)


def test_the_accuracy_of_a_deployed_model_is_the_share_of_classes_it_names() -> None:
    truths = [truth(2), truth(2)]  # classes 0, 1, 0, 1
    first = torch.tensor([[9.0, 0, 0], [0, 9, 0]])
    outputs = [{"right": first, "half": first * 0}] * 2
    standardise = Standardisation.of(torch.rand(4, truths[0].features.shape[1]))
    runs = [Run(truths, [], standardise, outputs=each) for each in (outputs, outputs[::-1])]
    assert _deployed_accuracy(runs) == {"right": 1.0, "half": 0.5}
    assert _deployed_accuracy([Run(truths, [], standardise)]) is None
