"""docs/recipes.md beside the configurations that it speaks of: every line of its tables."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml

from carv_distill.engine.config import flat
from carv_distill.engine.optimisation import ema_update
from carv_distill.tasks import load_config
from tests.helpers.small import ROOT

PAGE = (ROOT / "docs/recipes.md").read_text()
COLUMNS = {
    "FastGen": ("cifar10/dmd2_fastgen", "imagenet64/dmd2_fastgen"),
    "DMD2 on ImageNet-64": ("imagenet64/dmd2_start", "imagenet64/dmd2"),
}
OF_PROMPTS = {
    "dmd.gan.cache",
    "dmd.gan.latents",
    "dmd.gradient_checkpointing",
    "dmd.student_timestep",
    "teacher.negative_prompt",
    "teacher.size",
}
"""Refused where images have labels."""
NOT_OF_A_RECIPE = {
    "dmd.fake_batch",  # of a share: dmd.global_batch says what counts
    "dmd.ema_half_life",
    "dmd.ema_memory",  # the same numbers
    "dmd.compile",
    "dmd.gan.r1_noise",
    "estimator.upstream",
    "estimator.chunk",
    "estimator.weights",
    "estimator.statistic",
    "estimator.bins",
    "estimator.refresh",
    "estimator.defensive",
}
Cell = tuple[str, str, str, str]
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def cells() -> list[Cell]:
    """(configuration, key, ours, theirs) of every line of the tables."""
    found = []
    for title, configurations in COLUMNS.items():
        (section,) = (s for s in PAGE.split("\n## ") if s.startswith(f"{title}\n"))
        for line in section.splitlines():
            if line.startswith("| `"):
                key, *rest = (cell.strip() for cell in line.strip("|").split("|"))
                for i, name in enumerate(configurations):
                    found.append((name, key.strip("`"), rest[2 * i], rest[2 * i + 1]))
    return found


def arithmetic(text: str) -> float:
    """A number by + - * / ** and round."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "round":
            return round(value(node.args[0]))
        raise ValueError(text)

    return value(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: f"{cell[0]} {cell[1]}")
def test_a_line_says_what_the_configuration_has(cell: Cell) -> None:
    """Our value, and what the arithmetic behind theirs gives, to the digits that ours has."""
    name, key, ours, theirs = cell
    value = flat(load_config(ROOT / f"configs/{name}.yaml"))[key]
    said = yaml.safe_load(ours.strip("`")) if ours else None
    # YAML takes 1.0e-4 for a number and reads a number into a text's place as text
    assert said == value
    if computed := re.findall(r"`(.*?)`", theirs):
        wanted = value if isinstance(value, list) else [value]
        for text, number in zip(computed, wanted, strict=True):
            digits = len(str(number).partition(".")[2]) if isinstance(number, float) else 0
            assert round(arithmetic(text), digits) == number
    else:
        plain = re.fullmatch(r"(?:AdamW, )?(\d[\d.e-]*)", theirs)
        if plain:
            assert float(plain[1]) == value


@pytest.mark.parametrize("title", COLUMNS)
def test_no_value_of_a_recipe_is_left_out(title: str) -> None:
    """Every key of dmd, estimator and teacher, and the length and the precision of the training."""
    for name in COLUMNS[title]:
        config = flat(load_config(ROOT / f"configs/{name}.yaml"))
        wanted = {key for key in config if key.startswith(("dmd.", "estimator.", "teacher."))}
        wanted |= {"trainer.max_steps", "trainer.precision", "data.flip"}
        said = {key for of, key, *_ in cells() if of == name}
        missing = wanted - said - NOT_OF_A_RECIPE
        if config["dmd.gan.optimiser"] == "fake":
            missing -= {"dmd.gan.lr", "dmd.gan.beta1", "dmd.gan.beta2"}
        if config["dmd.adapters.kind"] == "none":
            missing = {key for key in missing if not key.startswith("dmd.adapters.")}
        missing -= OF_PROMPTS
        assert not missing


def test_a_batch_of_the_fake_score_is_as_large_as_the_students() -> None:
    """A share has as many samples for the one as for the other, so the global batch is one."""
    for name in {name for names in COLUMNS.values() for name in names}:
        config = flat(load_config(ROOT / f"configs/{name}.yaml"))
        assert config["dmd.fake_batch"] == config["estimator.upstream"]
        assert config["dmd.global_batch"] % config["estimator.upstream"] == 0


def test_only_a_recipe_names_a_published_figure() -> None:
    """A header with an FID is that of a configuration of the tables; they carry the page's figures."""
    figures = {
        "cifar10/dmd2_fastgen": "1.99",
        "imagenet64/dmd2_fastgen": "1.12",
        "imagenet64/dmd2_start": "2.61",
        "imagenet64/dmd2": "1.28",
    }
    assert set(figures) == {name for names in COLUMNS.values() for name in names}
    for path in (ROOT / "configs").rglob("*.yaml"):
        name = str(path.relative_to(ROOT / "configs").with_suffix(""))
        named = re.findall(r"FID\s#?\s?(\d\.\d\d)", path.read_text())
        assert named == ([figures[name]] if name in figures else []), name


@pytest.mark.parametrize("decay", [0.9999, 0.9996, 0.99995, 0.5])
def test_five_moves_towards_one_student_are_one_of_the_fifth_power(decay: float) -> None:
    """FastGen's average moves at five iterations of which one changes the student: float64, to 1e-14; and the
    half-lives in images that the page has."""
    g = torch.Generator().manual_seed(0)
    student, average = torch.randn(2, 64, generator=g, dtype=torch.float64)
    five, one = [average.clone()], [average.clone()]
    for _ in range(5):
        ema_update(five, [student], decay)
    ema_update(one, [student], decay**5)
    torch.testing.assert_close(five, one, rtol=0, atol=1e-14)


def test_the_half_lives_of_the_page() -> None:
    """ln ½ / ln 0.9999⁵ student updates of 2,048 and 512 samples, in thousands."""
    for batch, said in ((2048, "2,839"), (512, "710")):
        updates = torch.tensor(0.5).double().log() / torch.tensor(0.9999**5).double().log()
        assert f"{float(updates * batch) / 1000:,.0f}" == said
        assert said in PAGE
