"""DLG, iDLG, IG and GradInversion: what their papers say, and mistakes that others made."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from faces import faces
from leakbench.attacks.dlg import DeepLeakage, ImprovedDeepLeakage
from leakbench.attacks.gradinversion import GradInversion
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching.distance import Gradients
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import CENTRED, RAW, Reconstruction, Victim
from leakbench.attacks.matching.optimisers import LBFGS, Adam
from leakbench.base.choices import Mode
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.conformance.attack_trial import AttackTrial, difference
from leakbench.data.images import to_images
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.batch_norm import batch_statistics, in_mode, running_statistics
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.image_metrics import psnr
from leakbench.threat.attack import AttackResult
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.property_models.image import image_property_model
from leakbench.threat.server import Server


def small_model(seed: int = 0, batch_norm: bool = False) -> SharedModel:
    torch.manual_seed(seed)
    return SmallCNN(width=4, batch_norm=batch_norm).build(4, 16, "convolutions").eval()


def server_of(model: SharedModel, size: int = 16, classes: int = 4, mode: Mode = "eval") -> Server:
    return Server(classes, (3, size, size), (), mode=mode, model=model)


def observed(model: SharedModel, labels: list[int], mode: Mode = "eval") -> Observation:
    torch.manual_seed(1)
    images = torch.rand(len(labels), 3, 16, 16)
    client = in_mode(model, mode)
    return Observation(
        batch_size=len(labels),
        seed=0,
        update=client_update(client, images, torch.tensor(labels)),
        labels=torch.tensor(labels),
        statistics=batch_statistics(client, images),
    )


def reconstruct(
    attack: GradientMatching, model: SharedModel, observation: Observation, mode: Mode = "eval"
) -> Reconstruction:
    assert observation.update is not None
    server = server_of(model, mode=mode)
    victim = Victim(
        observation.update,
        observation.labels if attack.labels == "known" else None,
        observation.batch_size,
        observation.seed,
        attack.statistics(model, observation),
    )
    client = in_mode(model, mode)
    return match_gradients(client, attack.method(server), [victim], 4, lambda share: None)[0]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_dlg_recovers_half_of_ten_faces_on_its_own_network() -> None:
    """Sigmoid LeNet, weights and biases U(−0.5, 0.5), 32 px, B = 1, labels sought jointly."""
    images, reached, named = faces(10), [], []
    for seed in range(10):
        torch.manual_seed(seed)
        model = LeNet().build(10, 32, "convolutions")
        update = client_update(model, images[seed : seed + 1], torch.tensor([seed]))
        attack = DeepLeakage(budget=4_000)
        # Here 1e-4 is far beyond 20 dB: what is left of the budget would only polish.
        method = replace(attack.method(server_of(model, 32, 10)), tolerance=1e-4)
        victim = Victim(update, None, 1, seed)
        (found,) = match_gradients(model, method, [victim], 10, lambda share: None)
        reached.append(psnr(found.images.clamp(0, 1), images[seed : seed + 1]).item())
        named.append(found.labels.item() == seed)
    assert sum(value >= 20 for value in reached) >= 5, reached
    assert all(named)


def test_dlg_is_stated_as_in_its_paper() -> None:
    attack = DeepLeakage()
    method = attack.method(server_of(small_model()))
    assert attack.labels == "joint"
    assert Knowledge.LABELS not in attack.required_knowledge
    assert method.optimiser == LBFGS(learning_rate=1.0, history=100)
    assert method.prior is None
    assert method.projected == 0
    assert method.pixels == RAW
    assert DeepLeakage.presets["paper"]["budget"] == 300 * 20


def test_dlg_s_labels_are_one_for_each_individual() -> None:
    """A batch of two classes comes back as two classes: with one shared label it could not."""
    torch.manual_seed(0)
    model = LeNet().build(4, 16, "convolutions")
    found = reconstruct(DeepLeakage(budget=400), model, observed(model, [0, 3]))
    assert sorted(found.labels.tolist()) == [0, 3]


def test_idlg_reads_the_label_and_matches_with_it() -> None:
    attack = ImprovedDeepLeakage(budget=2)
    assert attack.labels == "idlg"
    assert attack.method(server_of(small_model())).optimiser == LBFGS()
    assert Knowledge.LABELS not in attack.required_knowledge
    assert ImprovedDeepLeakage.largest_batch == 1


def test_ig_is_stated_as_in_its_paper() -> None:
    method = InvertingGradients().method(server_of(small_model()))
    assert method.optimiser == Adam(learning_rate=0.1, signed=True)
    assert method.pixels == CENTRED
    assert method.projected == math.inf
    done = torch.tensor([[0.0], [0.374], [0.376], [0.626], [0.876]])
    factors = method.schedule(done).flatten()
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 0.1, 0.01, 0.001]))
    assert InvertingGradients.presets["paper"]["budget"] == 24_000
    assert InvertingGradients.presets["fast"]["budget"] == 4_000


def test_ig_s_sign_is_taken_after_the_prior_is_added() -> None:
    """With a prior that outweighs everything, the first step follows its sign alone."""
    model, attack = small_model(), InvertingGradients(budget=2, tv=1e9)
    method = attack.method(server_of(model))
    observation = observed(model, [1])
    start = torch.zeros(1, 3, 16, 16)
    start[..., 8, 8] = 0.5
    falling = iter([2.0, 1.0])  # so that the last iterate is the best

    def distance(gradients: Gradients, _: Gradients) -> Tensor:
        return gradients["classifier.0.bias"].sum(1) * 0 + next(falling)

    method = replace(method, start=lambda victim, generator: start, distance=distance)
    victim = Victim(observation.update, observation.labels, 1, 0)  # type: ignore[arg-type]
    (found,) = match_gradients(model, method, [victim], 4, lambda share: None)
    moved = CENTRED.from_pixels(found.images) - start
    torch.testing.assert_close(moved[0, :, 8, 8], torch.full((3,), -0.1))
    torch.testing.assert_close(moved[0, :, 7, 8], torch.full((3,), 0.1))


def test_gradinversion_s_group_changes_the_result() -> None:
    model = small_model()
    observation = observed(model, [0, 1])
    alone, grouped = (
        reconstruct(GradInversion(budget=40, seeds=2, group=group), model, observation)
        for group in (0.0, 0.01)
    )
    assert not torch.allclose(alone.images, grouped.images, atol=1e-3)


def test_gradinversion_s_group_draws_its_seeds_together() -> None:
    model = small_model()
    observation = observed(model, [0, 1])

    def apart(group: float) -> float:
        """How far from their mean the seeds are at the end, as a consensus of 1 step later."""
        seen: list[Tensor] = []

        class Watched(GradInversion):
            def consensus(self, images: Tensor, victim: Tensor) -> Tensor:
                mean = super().consensus(images, victim)
                seen.append((images - mean).square().mean())
                return mean

        reconstruct(Watched(budget=240, seeds=4, group=group, noise=0), model, observation)
        return float(seen[-1])

    assert apart(1.0) < 0.5 * apart(0.0)


def test_gradinversion_matches_the_statistics_it_is_granted_and_no_others() -> None:
    model = small_model(batch_norm=True)
    observation = observed(model, [0, 1])
    exact, approximate, none = (
        GradInversion(batch_norm=choice) for choice in ("exact", "approximate", "none")
    )
    assert Knowledge.STATISTICS in exact.required_knowledge
    assert Knowledge.STATISTICS not in approximate.required_knowledge
    assert exact.statistics(model, observation) == observation.statistics
    assert exact.statistics(model, observation).keys() == running_statistics(model).keys()
    for layer, (mean, variance) in approximate.statistics(model, observation).items():
        assert torch.equal(mean, running_statistics(model)[layer][0])
        assert torch.equal(variance, running_statistics(model)[layer][1])
    assert none.statistics(model, observation) == {}


def test_exact_statistics_bring_the_dummies_statistics_nearer() -> None:
    model = small_model(batch_norm=True)
    observation = observed(model, [0, 1, 2, 3])
    assert observation.statistics is not None

    def off(choice: str) -> float:
        attack = GradInversion(budget=200, seeds=1, batch_norm=choice, noise=0)  # type: ignore[arg-type]
        found = reconstruct(attack, model, observation)
        reached = batch_statistics(model, found.images)
        return sum(
            float((reached[layer][i] - observation.statistics[layer][i]).norm())
            for layer in reached
            for i in (0, 1)
        )

    assert off("exact") < off("none")


@pytest.mark.parametrize("choice", ["exact", "approximate"])
def test_statistics_of_a_model_without_batch_norm_are_refused(choice: str) -> None:
    model = small_model()
    attack = GradInversion(batch_norm=choice)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"batch_norm='{choice}' needs a model with BatchNorm"):
        attack.statistics(model, observed(model, [0]))


@pytest.mark.parametrize(
    ("name", "parameters"), [("gradinversion", {"seeds": 8}), ("ig", {"restarts": 8})]
)
def test_a_budget_below_one_evaluation_a_run_is_refused(
    name: str, parameters: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="budget must be at least one evaluation for each of 8"):
        build(ATTACKS, name, {**parameters, "budget": 7})


@pytest.mark.parametrize("runs", [1, 3, 8])
def test_all_runs_together_keep_to_the_budget(runs: int) -> None:
    model = small_model()
    observation = observed(model, [2])
    for attack in (
        GradInversion(budget=25, seeds=runs),
        InvertingGradients(budget=25, restarts=runs),
    ):
        assert reconstruct(attack, model, observation).steps == 25 // runs * runs


def test_a_client_in_train_mode_is_attacked_in_train_mode() -> None:
    """At the true images the attacker's gradient equals the update only in the client's mode."""
    torch.manual_seed(1)
    images = torch.rand(2, 3, 16, 16)
    model = small_model(batch_norm=True)
    labels = torch.tensor([0, 1])
    losses = {}
    for mode in ("eval", "train"):
        observation = observed(model, labels.tolist(), "train")
        client = in_mode(model, mode)  # type: ignore[arg-type]
        method = InvertingGradients(budget=1).method(server_of(model))
        method = replace(method, start=lambda victim, generator: CENTRED.from_pixels(images))
        assert observation.update is not None
        victim = Victim(observation.update, labels, 2, 0)
        losses[mode] = match_gradients(client, method, [victim], 4, lambda share: None)[0].loss
    assert losses["train"] < 1e-5 < losses["eval"]


def test_the_mode_of_a_cell_changes_its_update_and_its_key(small_setup: Setup) -> None:
    fields = small_setup.model_dump() | {
        "model_parameters": {"width": 4, "batch_norm": True},
        "attack": "feature",
        "attack_parameters": parameters_of(build(ATTACKS, "feature", {"budget": 2})),
        "batch_size": 4,
        "individuals": 8,
    }
    cells = [Cell.model_validate({**fields, "mode": mode}) for mode in ("eval", "train")]
    assert cells[0].key(1) != cells[1].key(1)
    context = prepare(cells[0].setup, None, "cpu", lambda message: None)
    weights = {n: t.clone() for n, t in context.server.model.state_dict().items()}  # type: ignore[union-attr]
    records = [measure(ResolvedCell.of(cell), [context], lambda share: None) for cell in cells]
    cosines = [r.metrics.feature_cosine.value for r in records]  # type: ignore[union-attr]
    assert cosines[0] != cosines[1]
    for name, tensor in context.server.model.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, weights[name]), name


def test_properties_are_read_off_images_where_that_is_chosen(small_setup: Setup) -> None:
    context = prepare(small_setup, None, "cpu", lambda message: None)
    server = replace(context.server, mode="eval")
    assert server.model is not None
    images = context.server.auxiliary.images[:1]  # type: ignore[union-attr]
    update = client_update(server.model, images, torch.tensor([0]))
    observation = Observation(1, seed=0, update=update, labels=torch.tensor([0]))
    by_features, by_images = (
        InvertingGradients(budget=4, reads=reads).infer(server, [observation], lambda share: None)[
            0
        ]  # type: ignore[arg-type]
        for reads in ("features", "images")
    )
    assert by_images.images is not None
    assert by_images.scores == image_property_model(server)(by_images.images)
    assert by_features.scores != by_images.scores
    torch.testing.assert_close(by_features.features, by_images.features)


@pytest.mark.slow
def test_the_image_classifier_learns_glasses_from_d_aux() -> None:
    setup = Setup(
        dataset="synthetic",
        dataset_parameters={"individuals": 1000},
        image_size=32,
        properties=("glasses",),
        main_task="hat",
        model_parameters={"width": 4},
        rounds=0,
    )
    context = prepare(setup, None, "cpu", lambda message: None)
    rows = context.split.victims
    scores = image_property_model(context.server)(to_images(context.individuals.images[rows]))
    truth = torch.from_numpy(context.individuals.attribute("glasses")[rows])
    said = scores["glasses"] > 0.5
    sensitivity, specificity = said[truth].float().mean(), (~said[~truth]).float().mean()
    assert (sensitivity + specificity) / 2 > 0.8


READS_UPDATES = [
    name
    for name in ATTACKS.own()
    if Knowledge.UPDATE in build(ATTACKS, name, {}).required_knowledge
]


def with_one_update_of_nan(trial: AttackTrial) -> list[AttackResult]:
    """The attack's answers for two batches, the second of which has one number that is NaN."""
    server, (good, spoilt) = trial.shown(trial.batch_size)
    assert spoilt.update is not None
    # The output layer's bias is the last parameter of every model.
    spoilt.update[next(reversed(spoilt.update))].view(-1)[0] = math.nan
    return trial.infer(server, [good, spoilt])


@pytest.mark.parametrize("name", READS_UPDATES)
def test_one_update_of_nan_does_not_change_the_answers_for_the_others(name: str) -> None:
    trial = AttackTrial(name)
    first, second = with_one_update_of_nan(trial)
    server, (good, _) = trial.shown(trial.batch_size)
    assert difference(first, trial.infer(server, [good])[0], rtol=1e-3, atol=1e-4) is None
    assert all(bool(scores.isfinite().all()) for scores in second.scores.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("feature", {}),
        ("feature_lbfgs", {}),
        ("feature_direct", {}),
        ("dlg", {}),
        ("ig", {}),
        ("gradinversion", {}),
        ("mask_demixing", {}),
        *(("feature", {"labels": labels}) for labels in ("counts", "ilrg", "row_minimum", "joint")),
    ],
    ids=str,
)
def test_an_update_of_nan_is_answered_with_individuals_of_d_aux_and_diverges(
    name: str, parameters: dict[str, str]
) -> None:
    trial = AttackTrial(name, parameters=parameters)
    first, second = with_one_update_of_nan(trial)
    assert second.diverged
    assert second.features is not None
    space = trial.context.server.feature_space
    assert space is not None
    nearest = (second.features[:, None] - space.features[None]).abs().amax(2).amin(1)
    assert nearest.max() == 0
    # So that the cell can still say how good images, labels and certificates are.
    assert (first.images is None) == (second.images is None)
    assert (first.certified is None) == (second.certified is None)
    assert second.labels is not None
