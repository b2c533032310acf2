"""Every command and every block of Python on the pages: the real parsers take them, and nothing is run."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest

from carv_distill.commands import evaluate, push, train, view
from carv_distill.tasks import load_config
from carv_distill.teachers import convert
from tests.helpers.small import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("*.md"))
PAGES.remove(ROOT / "docs/extending.md")  # of a package that the page makes; test_extending.py runs it
NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))
SCRIPTS = {"train.py": train.main, "evaluate.py": evaluate.main}
CONSOLE = {
    "train": train.main,
    "evaluate": evaluate.main,
    "view": view.main,
    "push": push.main,
    "convert": convert.main,
}
OURS = re.compile(
    r"(?:python(?:3)? (?:train|evaluate)\.py|python -m (?:carv_distill|studies|benchmarks)\b|carv-distill )"
)


@dataclass(frozen=True)
class Said:
    """A command on a page."""

    page: str
    words: tuple[str, ...]
    inline: bool
    """Within a sentence, where it may stand for what it does, without what it needs."""

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def texts() -> Iterator[tuple[str, str]]:
    """Pages by name, and the prose of notebooks."""
    for page in PAGES:
        yield str(page.relative_to(ROOT)), page.read_text()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        yield str(path.relative_to(ROOT)), prose


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[Said]:
    for page, text in texts():
        for block in blocks(text, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    if words := shlex.split(part, comments=True):
                        yield Said(page, tuple(words), inline=False)
        for span in re.findall(
            r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        ):
            if OURS.match(span):
                yield Said(page, tuple(without_rest(shlex.split(span))), inline=True)


def without_rest(words: list[str]) -> list[str]:
    """Without the … that stands for more words; one behind an option is its value."""
    return [word for last, word in pairwise(["", *words]) if word != "…" or last.startswith("--")]


class ParsedError(Exception):
    """What a parser has made of a command's words."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points go as far as their parser."""
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def parse(self: Any, *args: Any, real: Any = real, **options: Any) -> None:
            raise ParsedError(real(self, *args, **options))

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the command's own parser reads; leaves as it leaves."""
    with pytest.raises(ParsedError) as stop:
        start(words, monkeypatch)
    return stop.value.arguments


def start(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell would, in this process."""
    if words[:3] == ["python", "-m", "carv_distill"]:
        words = ["carv-distill", *words[3:]]
    launcher, name, *rest = words
    if launcher == "carv-distill":
        CONSOLE[name](rest)
    elif name == "-m":
        monkeypatch.setattr(sys, "argv", rest)
        monkeypatch.delitem(sys.modules, rest[0], raising=False)  # it is made anew as __main__
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        SCRIPTS[name](rest)


ALL = list(dict.fromkeys(commands()))


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize(
    "said", [s for s in ALL if OURS.match(" ".join(s.words)) or s.words[0] == "torchrun"], ids=str
)
def test_a_command_is_one_that_is_understood(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are known and their values allowed; its configuration is there, and its keys are known."""
    words = list(said.words)
    if words[0] == "torchrun":
        place = next(i for i, word in enumerate(words) if word in SCRIPTS)
        words = ["python", *words[place:]]
    if said.inline and not any(word.startswith("-") for word in words if word != "-m"):
        with pytest.raises(SystemExit, match=r"^0$"):  # a name alone: what it needs is not said there
            parsed([*words, "--help"], monkeypatch)
        return
    arguments = parsed(words, monkeypatch)
    if hasattr(arguments, "overrides"):
        load_config(arguments.config, arguments.overrides)


def test_there_are_commands_of_every_kind() -> None:
    """What finds them finds them."""
    starts = {" ".join(said.words[:2]) for said in ALL}
    assert {"python train.py", "python evaluate.py", "carv-distill push", "python -m"} <= starts
    assert any(said.page.endswith(".ipynb") for said in ALL)
    assert len(ALL) > 60


def test_a_mistake_is_seen(stopping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("python evaluate.py fid --imagse 3", "python -m studies.dmd_gap --quik"):
        with pytest.raises(SystemExit, match=r"^2$"):
            parsed(shlex.split(wrong), monkeypatch)


def test_extras_that_are_named_are_there() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for _, text in texts()
        for group in re.findall(r"(?:carv-distill|'\.)\[([\w,-]+)\]", text)
        for extra in group.split(",")
    }
    assert len(named) > 3
    assert named <= set(known)


def test_batch_scripts_name_what_is_there() -> None:
    found = [said.words for said in ALL if said.words[0] == "sbatch"]
    assert found
    for _, script, config in found:
        assert (ROOT / script).is_file()
        load_config(ROOT / config)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "python")], ids=lambda p: p.name
)
def test_python_is_python_and_imports_what_is_there(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("carv_distill"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("carv_distill"):
                        importlib.import_module(alias.name)
