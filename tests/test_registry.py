"""Registries, with outside packages as `pip` would leave them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leakbench.base.registry
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry

GROUP = "leakbench.attacks"

PLUGIN = """
from dataclasses import dataclass
from leakbench.base.registry import register_attack

@register_attack("{name}")
@dataclass(frozen=True, kw_only=True)
class Plugin:
    steps: int = 3
"""

Install = Callable[..., str]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry that `register_attack` fills."""
    empty = Registry("attack", (), GROUP)
    monkeypatch.setattr(leakbench.base.registry, "register_attack", empty.register)
    return empty


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module whose entry point has a name; returns the module's name."""
    modules = []

    def installed(name: str, source: str, package: str = "stranger", value: str = "") -> str:
        module = f"{package}_plugins"
        modules.append(module)
        site = tmp_path / package
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        points = f"[{GROUP}]\n{name} = {value or f'{module}:Plugin'}\n"
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(site)
        return module

    yield installed
    for module in modules:
        sys.modules.pop(module, None)


def plugin(name: str) -> type:
    return type(name, (), {})


def test_a_registered_class_is_found_and_knows_its_name(registry: Registry) -> None:
    mine = registry.register("mine")(plugin("Mine"))
    assert registry.get("mine") is mine
    assert mine.name == "mine"  # type: ignore[attr-defined]


def test_names_are_sorted_and_chosen_by_a_glob(registry: Registry) -> None:
    for name in ("dlg", "feature", "dual"):
        registry.register(name)(plugin(name))
    assert registry.names() == ["dlg", "dual", "feature"]
    assert registry.names("d*") == ["dlg", "dual"]
    assert registry.names("?lg") == ["dlg"]
    assert registry.names("x*") == []


def test_an_unknown_name_lists_the_nearest(registry: Registry) -> None:
    for name in ("feature", "gradient", "zzz"):
        registry.register(name)(plugin(name))
    with pytest.raises(UsageError, match=r"unknown attack 'featur'; did you mean feature\?"):
        registry.get("featur")


def test_a_name_near_to_none_lists_all(registry: Registry) -> None:
    for name in ("feature", "gradient"):
        registry.register(name)(plugin(name))
    with pytest.raises(UsageError, match=r"unknown attack '123'; did you mean feature, gradient\?"):
        registry.get("123")


def test_two_classes_of_one_name_are_an_error_that_names_both(registry: Registry) -> None:
    first = registry.register("mine")(plugin("First"))
    with pytest.raises(UsageError, match=r"'mine' is registered twice.*First.*Second.*rename"):
        registry.register("mine")(plugin("Second"))
    assert registry.get("mine") is first


def test_a_module_may_be_imported_again(registry: Registry) -> None:
    registry.register("mine")(plugin("Mine"))
    again = registry.register("mine")(plugin("Mine"))
    assert registry.get("mine") is again


def test_every_module_of_an_own_package_is_imported_at_the_first_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Registry("attack", ("own_package",), GROUP)
    monkeypatch.setattr(leakbench.base.registry, "register_attack", own.register)
    folder = tmp_path / "own_package"
    folder.mkdir()
    for file, source in (("__init__", ""), ("a", PLUGIN.format(name="x")), ("b", "")):
        (folder / f"{file}.py").write_text(source)
        monkeypatch.delitem(sys.modules, f"own_package.{file}", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert "own_package" not in sys.modules
    assert own.names() == ["x"]
    assert {"own_package", "own_package.a", "own_package.b"} <= set(sys.modules)


@pytest.mark.parametrize(
    ("registry_of", "known"),
    [
        (ATTACKS, {"feature", "prior", "blind", "oracle"}),
        (DATASETS, {"synthetic", "celeba"}),
        (MODELS, {"small_cnn", "lenet", "resnet18"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Registry) else "",
)
def test_our_own_plugins_are_there_and_build_with_their_defaults(
    registry_of: Registry, known: set[str]
) -> None:
    assert known <= set(registry_of.names())
    for name in registry_of.names():
        assert build(registry_of, name, {}).name == name


def test_our_own_defenses_are_there_and_tell_which_parameters_they_cannot_do_without() -> None:
    assert {"none", "gaussian", "dp_sgd", "composed"} <= set(DEFENSES.names())
    assert build(DEFENSES, "none", {}).name == "none"
    with pytest.raises(UsageError, match=r"defense 'gaussian': key 'sigma' is missing"):
        build(DEFENSES, "gaussian", {})


def test_an_outside_plugin_is_imported_only_when_asked_for(
    registry: Registry, install: Install
) -> None:
    module = install("theirs", PLUGIN.format(name="theirs"))
    assert registry.names() == ["theirs"]
    assert registry.is_outside("theirs")
    assert module not in sys.modules
    found = registry.get("theirs")
    assert module in sys.modules
    assert found is sys.modules[module].Plugin
    assert not registry.is_outside("theirs")
    assert registry.get("theirs") is found


def test_an_outside_plugin_of_another_name_stays_unimported(
    registry: Registry, install: Install
) -> None:
    module = install("theirs", PLUGIN.format(name="theirs"))
    registry.register("mine")(plugin("Mine"))
    registry.get("mine")
    with pytest.raises(UsageError, match=r"did you mean .*theirs"):
        registry.get("their")
    assert module not in sys.modules


def test_an_outside_plugin_takes_parameters_like_our_own(
    registry: Registry, install: Install
) -> None:
    install("theirs", PLUGIN.format(name="theirs"))
    assert build(registry, "theirs", {"steps": 5}).steps == 5
    with pytest.raises(UsageError, match=r"'theirs' has no parameter 'width'; it has: steps"):
        build(registry, "theirs", {"width": 5})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", r"cannot be imported .*no_such_module.*fix or uninstall"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError.*fix or uninstall"),
        ("def f(:", r"cannot be imported \(SyntaxError.*fix or uninstall"),
        ("", r"cannot be imported \(AttributeError.*Plugin.*fix or uninstall"),
        ("class Plugin: pass", r"does not name a class registered .*register decorator"),
        ("Plugin = 3", r"does not name a class registered .*register decorator"),
        (PLUGIN.format(name="other"), r"does not name a class registered as attack 'theirs'"),
    ],
    ids=["import", "exception", "syntax", "nothing", "unregistered", "no class", "another name"],
)
def test_a_broken_outside_package_is_one_sentence(
    registry: Registry, install: Install, source: str, message: str
) -> None:
    install("theirs", source)
    with pytest.raises(UsageError, match=f"'theirs' of package stranger {message}") as caught:
        registry.get("theirs")
    assert "\n" not in str(caught.value)


def test_a_broken_outside_package_does_not_hide_the_others(
    registry: Registry, install: Install
) -> None:
    install("theirs", "1 / 0")
    mine = registry.register("mine")(plugin("Mine"))
    assert registry.names() == ["mine", "theirs"]
    assert registry.get("mine") is mine


def test_an_outside_plugin_of_the_name_of_ours_is_an_error_that_names_both(
    registry: Registry, install: Install
) -> None:
    registry.register("mine")(plugin("Mine"))
    install("mine", PLUGIN.format(name="mine"))
    with pytest.raises(UsageError, match=r"'mine' is (?=.*Mine)(?=.*stranger).*twice.*rename"):
        registry.get("mine")


def test_two_outside_plugins_of_one_name_are_an_error_that_names_both(
    registry: Registry, install: Install
) -> None:
    install("theirs", PLUGIN.format(name="theirs"), package="stranger")
    install("theirs", PLUGIN.format(name="theirs"), package="newcomer")
    with pytest.raises(UsageError, match=r"(?=.*stranger)(?=.*newcomer).*rename"):
        registry.get("theirs")


def test_an_outside_plugin_may_be_defined_elsewhere_than_its_entry_point_says(
    registry: Registry, install: Install
) -> None:
    module = install("unused", PLUGIN.format(name="theirs"), package="inner")
    install("theirs", f"from {module} import Plugin", package="stranger")
    found: Any = registry.get("theirs")
    assert registry.get("theirs") is found


BROKEN = """
from dataclasses import dataclass
from leakbench.base.registry import register_attack

@register_attack("half")
@dataclass(frozen=True, kw_only=True)
class Half: ...

1 / 0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """A registry whose own package has modules with these sources."""

    def registry_of(**sources: str) -> Registry:
        own = Registry("attack", ("own_plugins",), GROUP)
        monkeypatch.setattr(leakbench.base.registry, "register_attack", own.register)
        folder = tmp_path / "own_plugins"
        folder.mkdir()
        for file, source in {"__init__": "", **sources}.items():
            (folder / f"{file}.py").write_text(source)
            monkeypatch.delitem(sys.modules, f"own_plugins.{file}", raising=False)
        monkeypatch.delitem(sys.modules, "own_plugins", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        return own

    return registry_of


@pytest.mark.parametrize("source", ["1 / 0", "def f(:", "import no_such_module", "exit(3)"])
def test_an_own_module_that_raises_on_import_is_one_sentence_and_the_rest_goes_on(
    own: Callable[..., Registry], source: str
) -> None:
    registry = own(bad=source, good=PLUGIN.format(name="good"))
    assert registry.names() == ["good"]
    assert registry.get("good").name == "good"
    (sentence,) = registry.broken.values()
    assert re.fullmatch(
        r"own_plugins\.bad cannot be imported \(.*, line \d+\); fix that, or remove "
        r".*own_plugins/bad\.py",
        sentence,
    )
    with pytest.raises(UsageError, match=r"unknown attack 'bad'.*own_plugins\.bad cannot be impor"):
        registry.get("bad")


def test_a_plugin_of_a_module_that_raises_afterwards_is_refused(
    own: Callable[..., Registry],
) -> None:
    registry = own(bad=BROKEN, good=PLUGIN.format(name="good"))
    with pytest.raises(UsageError, match=r"own_plugins\.bad cannot be imported"):
        registry.get("half")
    assert registry.own() == ["good"]


def test_a_name_that_two_own_modules_claim_is_nobody_s(own: Callable[..., Registry]) -> None:
    claim = PLUGIN.format(name="mine")
    registry = own(a=claim, b=claim, c=PLUGIN.format(name="good"))
    with pytest.raises(UsageError, match=r"'mine' is registered twice, by .*a\.Plugin and .*b\.Pl"):
        registry.get("mine")
    assert registry.own() == ["good"]


def test_a_stranger_who_claims_our_name_is_not_taken_for_ours(
    registry: Registry, install: Install
) -> None:
    registry.register("mine")(plugin("Mine"))
    registry.register("good")(plugin("Good"))
    install("mine", PLUGIN.format(name="mine"))
    assert registry.own() == ["good"]


def test_a_module_that_needs_a_broken_one_names_where_the_fault_is(
    own: Callable[..., Registry],
) -> None:
    registry = own(a="import own_plugins.bad", bad="\n\n1 / 0")
    registry.names()
    assert re.search(r"bad\.py, line 3\); fix that, or remove", registry.broken["own_plugins.a"])
