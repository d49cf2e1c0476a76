"""Compiled steps: the same answers, alone and among others; when they are made, and when not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakbench.attacks.dlg import DeepLeakage, ImprovedDeepLeakage
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.gradinversion import GradInversion
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching import engine, memory, step
from leakbench.attacks.matching.compiled import PASSES, operations, worth_compiling
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Iterate, Method, Reconstruction, Victim
from leakbench.attacks.matching.simulation import Simulation
from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.memory import is_out_of_memory
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel
from leakbench.threat.attack import NotCompiled
from leakbench.threat.server import Auxiliary, Server

CLASSES, SIZE, STEPS = 5, 16, 12

ATTACKS: list[GradientMatching] = [
    DeepLeakage(budget=STEPS),
    ImprovedDeepLeakage(budget=STEPS),
    InvertingGradients(budget=STEPS),
    GradInversion(budget=2 * STEPS, seeds=2, batch_norm="none"),
    FeatureReconstruction(budget=STEPS),
]


@pytest.fixture(autouse=True)
def compiled_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")


@dataclass(frozen=True)
class Case:
    model: SharedModel
    method: Method
    victims: list[Victim]

    def found(self, compiling: Compiling, *chosen: int) -> list[Reconstruction]:
        victims = [self.victims[i] for i in chosen or range(len(self.victims))]
        return match_gradients(
            self.model, self.method, victims, CLASSES, lambda share: None, compiling
        )


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def case(attack: GradientMatching, model: SharedModel, victims: int = 3) -> Case:
    """An attack in double precision, where rounding does not grow to a difference."""
    size = attack.largest_batch or 2
    labels = torch.tensor([0, 3])[:size]
    auxiliary = Auxiliary(images(1, 0), labels[:1], {}, labels[:1])
    method = attack.method(Server(CLASSES, (3, SIZE, SIZE), (), model=model, auxiliary=auxiliary))
    begin = method.start
    joint = attack.labels == "joint"
    return Case(
        model,
        replace(method, start=lambda victim, generator: begin(victim, generator).double()),
        [
            Victim(
                client_update(model, images(size, i), labels), None if joint else labels, size, i
            )
            for i in range(victims)
        ],
    )


def small(architecture: LeNet | SmallCNN) -> SharedModel:
    torch.manual_seed(0)
    return architecture.build(CLASSES, SIZE, "convolutions").double().eval()


def one_layer() -> SharedModel:
    """A model of one convolution and the output layer."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.Sigmoid(), nn.Flatten())
    output = nn.Linear(4 * (SIZE // 2) ** 2, CLASSES)
    return SharedModel(features, nn.Sequential(output)).double().eval()


def assert_same(found: list[Reconstruction], expected: list[Reconstruction]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.images, b.images, rtol=1e-5, atol=1e-6)
        assert a.loss == pytest.approx(b.loss, rel=1e-5, abs=1e-9)
        assert torch.equal(a.labels, b.labels)
        assert (a.steps, a.restarts, a.diverged) == (b.steps, b.restarts, b.diverged)


def test_an_attack_finds_the_same_traced_or_not_alone_or_among_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The graph that is compiled, run as it is: its code takes half a minute to compile."""
    traced: list[Any] = []
    compile_graph = torch.compile

    def run_as_it_is(graph: Any, **options: Any) -> Any:
        traced.append(graph)
        return compile_graph(graph, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", run_as_it_is)
    # Of all attacks its step is traced soonest.
    assert_same_compiled(ImprovedDeepLeakage(budget=STEPS), one_layer())
    assert len(traced) == 2


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_finds_the_same_compiled_or_not_alone_or_among_others(
    attack: GradientMatching,
) -> None:
    assert_same_compiled(attack, small(LeNet()))


def assert_same_compiled(attack: GradientMatching, model: SharedModel) -> None:
    of = case(attack, model)
    expected = of.found("off")
    assert len({answer.loss for answer in expected}) == 3
    assert_same(of.found("on"), expected)
    assert_same(of.found("off", 1), expected[1:2])
    assert_same(of.found("on", 1), expected[1:2])


@pytest.mark.nightly
@pytest.mark.slow
def test_behind_a_known_defense_it_finds_the_same_compiled_or_not() -> None:
    """With a mask of each victim's own."""
    of = case(FeatureReconstruction(budget=STEPS), small(SmallCNN(width=4)))
    victims = [
        replace(
            v, reliability={n: (g.abs() > g.abs().median()).double() for n, g in v.update.items()}
        )
        for v in of.victims
    ]
    on, off = (
        match_gradients(of.model, of.method, victims, CLASSES, lambda share: None, compiling)
        for compiling in ("on", "off")
    )
    assert_same(on, off)


def test_what_clients_would_send_is_simulated_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(step, "compiled", refused)
    of = case(FeatureReconstruction(budget=2), small(SmallCNN(width=4)))
    clients = of.victims[0].batch_size
    simulation = Simulation(None, lambda gradients: gradients, clients, ((1,),), 0.1)
    found = match_gradients(
        of.model,
        of.method,
        of.victims,
        CLASSES,
        lambda share: None,
        "on",
        simulation=simulation,
    )
    assert len(found) == len(of.victims)


def uncompiled(step: Callable[..., Any], *_example: Any) -> Callable[..., Any]:
    return step


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("ends_early", [False, True])
def test_a_compiled_step_serves_groups_of_one_size_only(
    attack: GradientMatching, ends_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five victims, two at a time: the last group is filled up, and runs may end before others."""
    of = case(attack, small(SmallCNN(width=4)), victims=5)
    expected = of.found("off")
    if ends_early:
        losses = sorted(answer.loss for answer in expected)
        of = replace(of, method=replace(of.method, tolerance=losses[2]))
        expected = of.found("off")
    served: list[int] = []
    shapes: list[int] = []

    def counting(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
        shapes.append(len(example[1]["number"]))

        def counted(weights: Any, tensors: dict[str, Any], *more: Any) -> Any:
            served.append(len(tensors["number"]))
            return function(weights, tensors, *more)

        return counted

    monkeypatch.setattr(step, "compiled", counting)
    monkeypatch.setattr(engine, "runs_together", lambda *_: 2 * of.method.runs)
    assert_same(of.found("on"), expected)
    assert shapes == [2 * of.method.runs]
    assert set(served) == set(shapes)
    if ends_early:
        assert len(served) < 3 * of.method.steps
    else:
        assert len(served) == 3 * of.method.steps


def test_a_step_that_does_not_compile_runs_uncompiled_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = case(InvertingGradients(budget=STEPS), small(LeNet()), victims=5)
    monkeypatch.setattr(engine, "runs_together", lambda *_: 2)
    prior = of.method.prior
    assert prior is not None

    def fickle(iterate: Iterate) -> Tensor:
        # Of the value of a tensor, which a trace has not.
        return prior(iterate) * (2 if iterate.images.sum().item() > 0 else 1)

    of = replace(of, method=replace(of.method, prior=fickle))
    with pytest.warns(NotCompiled, match="could not be compiled and run uncompiled") as warned:
        found = of.found("on")
    assert len(warned) == 1
    assert_same(found, of.found("off"))


def test_compiling_is_weighed_against_the_evaluations_ahead() -> None:
    model, dummies = small(SmallCNN(width=4)).float(), images(8, 0).float()
    worth = [worth_compiling("auto", model, dummies, n) for n in (1, 10**3, 10**6, 10**9)]
    assert worth == sorted(worth)
    assert worth[0] is False
    assert worth[-1] is True
    assert worth_compiling("on", model, dummies, 1)
    assert not worth_compiling("off", model, dummies, 10**9)
    wide = SmallCNN(width=64).build(CLASSES, SIZE, "convolutions")
    count = next(n for n in range(0, 10**7, 1000) if worth_compiling("auto", wide, dummies, n))
    assert not worth_compiling("auto", model, dummies, count)


def test_attention_is_counted_among_the_operations() -> None:
    """Of 5 tokens: 4 · 32² for q, k, v and the output, and 2 · 5 · 32 for scores and context."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layer(tokens, tokens, tokens, need_weights=False)[0]  # type: ignore[no-any-return]

    tokens = nn.Sequential(nn.AdaptiveAvgPool2d((4, 10)), nn.Flatten(), nn.Unflatten(1, (5, 24)))
    network = nn.Sequential(tokens, nn.Linear(24, 32, bias=False), Attention(), nn.Flatten())
    model = SharedModel(network, nn.Sequential(nn.Linear(160, CLASSES))).eval()
    products = 5 * 24 * 32 + 5 * 4 * 32**2 + 2 * 5 * 5 * 32 + 160 * CLASSES
    assert operations(model, images(1, 0).float()) == PASSES * 2 * products


# Memory


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_halves_the_victims_and_goes_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = case(FeatureReconstruction(budget=STEPS), small(LeNet()), victims=7)
    expected = of.found("off")
    tried: list[int] = []
    whole = step.dummy_gradients

    def greedy(model: SharedModel, pixels: Tensor, *rest: Any, **more: Any) -> Any:
        tried.append(len(pixels))
        if len(pixels) > 2:
            raise error
        return whole(model, pixels, *rest, **more)

    monkeypatch.setattr(step, "dummy_gradients", greedy)
    monkeypatch.setattr(step, "compiled", uncompiled)
    for compiling in ("off", "on"):
        tried.clear()
        assert_same(of.found(compiling), expected)  # type: ignore[arg-type]
        assert tried[0] == 7
        assert list(dict.fromkeys(tried)) == [7, 3, 1]


def test_a_batch_that_does_not_fit_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(step, "dummy_gradients", full)
    of = case(FeatureReconstruction(budget=STEPS), small(LeNet()))
    with pytest.raises(UsageError, match="not even one batch of 2 fits into the memory of cpu"):
        of.found("off")


def test_what_pytorch_says_when_memory_runs_out_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_another_error_is_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(step, "dummy_gradients", wrong)
    of = case(FeatureReconstruction(budget=STEPS), small(LeNet()))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        of.found("off")


def test_runs_side_by_side_fill_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    of = case(InvertingGradients(budget=STEPS), small(SmallCNN(width=4)))
    counts = [
        memory.runs_together(of.model, of.method, images(size, 0), True) for size in (1, 2, 8, 64)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] >= 1
    monkeypatch.setattr(memory, "CACHED", 1)
    assert memory.runs_together(of.model, of.method, images(1, 0), True) == 1


def test_a_deep_network_with_little_to_do_has_more_runs_side_by_side_than_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "CACHED", 1)
    method = case(InvertingGradients(budget=STEPS), small(SmallCNN(width=4))).method

    def together(layers: int, width: int, held: int = memory.HELD) -> int:
        monkeypatch.setattr(memory, "HELD", held)
        deep = [nn.Conv2d(width, width, 3, padding=1) for _ in range(layers)]
        network = nn.Sequential(nn.Conv2d(3, width, 3), *deep, nn.Flatten())
        output = nn.Linear(width * (SIZE - 2) ** 2, CLASSES)
        model = SharedModel(network, nn.Sequential(output))
        return memory.runs_together(model, method, images(1, 0).float(), True)

    assert together(memory.MANY, 4) == memory.ENOUGH
    assert together(memory.MANY - 3, 4) == 1
    assert together(memory.MANY, 32) == 1
    assert together(memory.MANY, 4, held=4_000_000) < memory.ENOUGH


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("architecture", [LeNet(), SmallCNN(), ResNet18()], ids=repr)
def test_published_models_have_as_many_runs_side_by_side_as_the_cache_holds(
    architecture: Architecture, batch_size: int
) -> None:
    model = architecture.build(CLASSES, SIZE, "convolutions").eval()
    assert not memory._is_thin(model, images(batch_size, 0).float())


def test_factors_of_a_layer_that_sees_many_rows_of_an_individual_are_not_smaller() -> None:
    rows = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (96, 8)), nn.Linear(8, 8), nn.Flatten())
    model = SharedModel(rows, nn.Sequential(nn.Linear(768, CLASSES)))
    everything = sum(parameter.numel() for parameter in model.parameters())
    held = memory._gradients(model, images(1, 0).float(), True)
    assert held == everything - 768 * CLASSES
    assert memory._gradients(model, images(1, 0).float(), False) == everything


# The command line

RunSuite = Callable[..., tuple[int, str]]

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender"]
main_task = "2-class"
model = "lenet"
property_model = "logistic"
clients = 2
rounds = 1
victim_share = 0.2
individuals = 4

[attack.feature]
parameters = { budget = 3 }

[attack.ig]
parameters = { budget = 3 }

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [2] }
"""


@pytest.fixture
def run_suite(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunSuite:
    """Return a function that runs the suite into a folder: code, stderr."""
    (tmp_path / "small.toml").write_text(SUITE)
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "cache"))

    def ran(out: str, *options: str) -> tuple[int, str]:
        given = ("--out", out, "--device", "cpu", "--workers", "1")
        code, _, said = run("run", "small.toml", *given, *options)
        return code, said

    return ran


@pytest.mark.nightly
@pytest.mark.slow
def test_a_second_run_compiles_nothing(run_suite: RunSuite, tmp_path: Path) -> None:
    def compiled_files() -> dict[Path, int]:
        folder = tmp_path / "cache" / "compiled"
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*.so")}

    # Of all attacks its step is compiled soonest.
    (tmp_path / "small.toml").write_text(SUITE.replace("attack.feature", "attack.idlg"))
    options = ("--compile", "on", "--only", "attack=idlg", "--set", "batch_size=1")
    code, said = run_suite("first", *options)
    assert code == 0
    assert "warning" not in said
    made = compiled_files()
    assert made
    code, said = run_suite("second", *options)
    assert code == 0
    assert "warning" not in said
    assert compiled_files() == made


@pytest.mark.nightly
@pytest.mark.slow
def test_without_a_compiler_a_run_goes_on_with_one_warning(
    run_suite: RunSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-compiler")
    code, said = run_suite("out", "--compile", "on")
    assert code == 0
    assert said.count("could not be compiled and run uncompiled") == 1
    code, said = run_suite("other", "--only", "attack=feature")
    assert code == 0
    assert "could not be compiled" not in said


def test_precisions_are_swept_and_told(run_suite: RunSuite, tmp_path: Path) -> None:
    code, _ = run_suite("out", "--set", "precision=float32,bfloat16")
    assert code == 0
    page = (tmp_path / "out" / "small.md").read_text()
    rows = [line for line in page.splitlines() if "| gender" in line]
    assert ["bfloat16" in row for row in rows[:2]] == [False, True]
    assert "attacks' copy of the model computes in bfloat16, float32" in page
    records = [json.loads(p.read_text()) for p in (tmp_path / "out" / "records").glob("*.json")]
    cosines = {
        (r["cell"]["attack"], r["cell"]["precision"]): r["metrics"]["feature_cosine"]
        for r in records
    }
    assert len(set(map(str, cosines.values()))) == len(cosines) == 4


def test_a_precision_that_the_device_has_not_is_refused(run_suite: RunSuite) -> None:
    code, said = run_suite("out", "--set", "precision=tf32")
    assert code == 2
    assert said.startswith("leakbench: precision 'tf32' needs --device cuda, not cpu")
    assert said.count("\n") == 1
    code, said = run_suite("out", "--set", "precision=half")
    assert code == 2
    assert "precision: " in said
