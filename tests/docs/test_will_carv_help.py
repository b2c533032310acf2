"""The numbers of the page that says where reuse pays, by the formula of the explorer."""

from __future__ import annotations

import math
import re

import pytest

from carv_distill.report.explorer import worth
from tests.helpers.small import ROOT

PAGE = (ROOT / "docs/will_carv_help.md").read_text()
CELL = re.compile(r"([\d.]+), K = (\d+)")


def table() -> list[tuple[float, float, float, int]]:
    """κ, W/B, effective compute and K of every cell."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|")]
    head = next(cells for cells in lines if cells[0] == "κ")
    ratios = [float(cell.removeprefix("W/B = ")) for cell in head[1:]]
    found = []
    for kappa, *cells in lines:
        for ratio, cell in zip(ratios, cells, strict=False):
            if match := CELL.fullmatch(cell):
                found.append((float(kappa), ratio, float(match[1]), int(match[2])))
    return found


def test_the_table_is_there() -> None:
    assert len(table()) == 16


@pytest.mark.parametrize(("kappa", "ratio", "said", "draws"), table())
def test_a_cell_is_what_so_many_draws_are_worth(kappa: float, ratio: float, said: float, draws: int) -> None:
    """At the K nearest to the best one, at no other costs."""
    assert draws == max(1, round(math.sqrt(kappa * ratio)))
    assert said == round(worth(1, draws, kappa, ratio, 0, 1), 2)


@pytest.mark.parametrize(("kappa", "ratio"), [(4, 24), (16, 1), (1, 100), (0.25, 16)])
def test_the_best_k_and_what_it_is_worth(kappa: float, ratio: float) -> None:
    """(1 + ρ)(1 + κ)/(√ρ + √κ)² at √(κρ), where that is an integer; less beside it."""
    exact = math.sqrt(kappa * ratio)
    best = (1 + ratio) * (1 + kappa) / (math.sqrt(ratio) + math.sqrt(kappa)) ** 2
    values = [worth(1, k, kappa, ratio, 0, 1) for k in range(1, 65)]
    assert max(values) == pytest.approx(best, rel=0.01 if exact % 1 else 1e-12)
    assert abs(1 + values.index(max(values)) - exact) < 1
