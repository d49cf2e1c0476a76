"""The documentation builds without warnings and without a network, and its examples run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from forking import completed
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import load_suite, suite_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "bench" / "docs"
PAGES = DOCS / "pages"

needs_docs = pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("sybil") is None, reason="needs the extra docs"
)

TITLE = re.compile(r'title="([^"]+)"')
LANGUAGES = {"bash", "python", "toml", "text", "json"}

LONG = {
    "audit.md",
    "defenses.md",
    "figures-and-notebooks.md",
    "plugins.md",
    "publishing.md",
    "sweeps.md",
    "training.md",
    "tutorial.md",
}
"""Pages whose examples run for half a minute or more."""

WITH_EXAMPLES = sorted(
    page.relative_to(PAGES).as_posix()
    for page in PAGES.rglob("*.md")
    if re.search(r"^```(bash|python)", page.read_text(encoding="utf-8"), re.MULTILINE)
)


class Reader:
    """Follows a page in an empty folder: writes files, runs commands, compares outputs.

    A block with a title is a file. A block of bash or Python without one is run; its output must
    contain the lines of the block of text that follows, except for their numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = ""
        self.blocks = 0
        hook = folder.parent / "hook"
        hook.mkdir()
        # Packages that `pip install -e` puts into `installed` are found as installed ones.
        self.installed = installed = folder.parent / "installed"
        (hook / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(installed)!r})")
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(hook), str(ROOT / "bench")]),
            "OMP_NUM_THREADS": "1",
            "PIP_TARGET": str(installed),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip takes a false value for "no isolation"
        }
        self.environment.pop("LEAKBENCH_DATA_ROOT", None)

    def parse(self, document):
        from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

        for region in FencedCodeBlockLexer("[^\n]+")(document):
            region.parsed = (region.lexemes["language"], region.lexemes["source"])
            region.evaluator = self.evaluate
            yield region

    def evaluate(self, example) -> None:
        info, source = example.parsed
        language = info.split()[0]
        assert language in LANGUAGES, f"a block of {language}"
        if title := TITLE.search(info):
            path = self.folder / title.group(1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        elif language == "bash":
            words = shlex.split(source, comments=True)
            single = words[0] == "leakbench" and "\n" not in source.strip()
            plain = single and not self.installed.exists()
            self.run(words if plain else ["bash", "-euo", "pipefail", "-c", source])
        elif language == "python" and self.installed.exists():
            self.run([sys.executable, "-c", source])
        elif language == "python":
            self.run(partial(exec, compile(source, "<page>", "exec"), {"__name__": "__main__"}))
        elif language == "text" and self.printed:
            printed = list(lines(self.printed))
            for line in lines(source):
                assert any(shows(line, each) for each in printed), (line, self.printed)
            self.printed = ""

    def run(self, command: list[str] | Callable[[], object]) -> None:
        """Run a script, or in a copy of this process one command of leakbench, or Python code."""
        if callable(command) or command[0] == "leakbench":
            done = completed(command, self.environment, self.folder)
        else:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
        self.printed = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{self.printed}"
        self.blocks += 1


def lines(text: str) -> Iterator[str]:
    """The lines of an output, without its numbers, its spaces and the width of its columns."""
    for line in text.splitlines():
        yield re.sub(r"\s+", " ", re.sub(r"--+", "--", re.sub(r"\d+(\.\d+)?", "0", line))).strip()


def shows(line: str, printed: str) -> bool:
    """Whether a line was printed; an ellipsis at its end matches any rest."""
    begun = line.removesuffix("…")
    return line == printed or (begun != line and printed.startswith(begun))


@needs_docs
@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.nightly if page in LONG else ())
        for page in WITH_EXAMPLES
    ],
)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    from sybil import Sybil
    from sybil.parsers.markdown import SkipParser

    reader = Reader(tmp_path / "work")
    reader.folder.mkdir()
    skipped = 0
    document = Sybil(parsers=[reader.parse, SkipParser()]).parse(PAGES / page)
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest:
            skipped += 1
            reader.printed = ""
    assert reader.blocks + skipped


BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_commands_suites_and_code_of_a_page_can_be_read(page: str, tmp_path: Path) -> None:
    """Also of blocks that are not run, or not every time: commands and their options exist."""
    commands = 0
    for number, (language, source) in enumerate(BLOCK.findall(read(page))):
        if language == "bash":
            for words in leakbench_commands(source):
                command, arguments = command_of(words)
                command.make_context(" ".join(words), arguments)
                commands += 1
        elif language == "python":
            compile(source, page, "exec")
        elif language == "toml":
            path = tmp_path / f"block_{number}.toml"
            path.write_text(source, encoding="utf-8")
            assert expand(*load_suite(str(path)))
    assert commands == len(re.findall(r"^ *leakbench |&& leakbench ", read(page), re.MULTILINE))


def leakbench_commands(script: str) -> Iterator[list[str]]:
    """The words after `leakbench` of each of its commands in a script."""
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\|?", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["leakbench"]:
                yield words[1:]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and its arguments."""
    from typer.main import get_command

    from leakbench.cli.main import app

    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", ()):
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands"), f"no such command: {words}"
    return command, words


def test_a_block_that_is_not_run_has_its_reason() -> None:
    for page in PAGES.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for comment in re.findall(r"<!--+ *skip.*", text):
            assert re.fullmatch(r'<!-- skip: next "[^"]{10,}" -->', comment), f"{page}: {comment}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    folder = tmp_path_factory.mktemp("docs")
    command = ["build", "--strict", "--quiet", "--config-file", str(DOCS / "mkdocs.yml")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *command, "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@needs_docs
@pytest.mark.slow
def test_it_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()
    for page in PAGES.rglob("*.md"):
        built = page.relative_to(PAGES).with_suffix(".html")
        assert (site / built).is_file(), f"{built} is not built"
    assert "Inverting Gradients" in (site / "search" / "search_index.js").read_text("utf-8")


@needs_docs
@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r"""<(?:script|img|iframe|link)\b[^>]*?\s(?:src|href)=["']?(?:https?:)?//[^>]*>"""
    )
    for page in site.rglob("*.html"):
        assert not loading.findall(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\"' ]*(https?:)?//", style.read_text("utf-8")), style


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@needs_docs
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
def test_pages_opened_as_files_are_searched_and_ask_for_nothing_else(site: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    with api.sync_playwright() as playwright:
        # The sandbox is not available to root; only our own files are opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # In a subfolder, where paths relative to the top would be wrong.
        page.goto((site / "attacks" / "index.html").as_uri())
        # The search reacts to keys; it may miss text that is filled in without any.
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("Kariyappa")
        found = page.locator(".md-search-result__link").first
        found.wait_for()
        found.click()
        page.wait_for_url("**/attacks/exact-features.html*")
        browser.close()
    assert complaints == []
    assert all(url.startswith((site.as_uri(), "about:", "data:")) for url in requests)


def read(*pages: str) -> str:
    return "".join((PAGES / page).read_text(encoding="utf-8") for page in pages)


def test_every_plugin_suite_and_command_is_described() -> None:
    from typer.main import get_command

    from leakbench.cli.main import app

    attacks = [f"attacks/{page.name}" for page in (PAGES / "attacks").glob("*.md")]
    sets = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    assert undescribed(own(ATTACKS), read(*attacks)) == []
    assert undescribed(own(DEFENSES), read("defenses.md")) == []
    assert undescribed(own(DATASETS), sets) == []
    assert undescribed(own(MODELS), read("how-it-fits.md")) == []
    assert undescribed(suite_names(), read("command-line.md")) == []
    commands = get_command(app).commands
    assert [n for n in commands if f"`leakbench {n}" not in read("command-line.md")] == []


def own(registry: Registry) -> list[str]:
    """The names of this project's plugins, without those that other tests register."""
    names = registry.names()
    return [name for name in names if registry.get(name).__module__.startswith("leakbench.")]


def undescribed(names: Iterable[str], text: str) -> list[str]:
    return [name for name in names if f"`{name}`" not in text]


def test_the_numbers_that_it_explains_are_published() -> None:
    published = (ROOT / "results" / "table2.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", read("reading.md"))
    assert len(numbers) >= 10
    assert [number for number in numbers if number not in published] == []


@needs_docs
def test_the_citation_names_this_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("leakbench")
    assert citation["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
