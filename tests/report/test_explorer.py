"""The explorer computes what the package does."""

from __future__ import annotations

import json
import math
import re

import pytest
import vl_convert

from carv_distill.report.explorer import PLACES, explorer, worth
from carv_distill.variance import CostModel


@pytest.mark.parametrize(("upstream", "draws"), [(1, 1), (8, 16), (2, 64)])
def test_worth_is_variance_times_cost(upstream: int, draws: int) -> None:
    """By the package's own cost model, B = 2 and W = 6."""
    cost = CostModel(upstream=3.0, draw=0.5, backward=1.0, other=20.0)

    def price(r: int, k: int) -> float:
        return (2 + 6 / k) / r * cost(r, k)

    own = worth(upstream, draws, cost.kappa, 3.0, 20.0 / 0.5, 4)
    assert own == pytest.approx(price(4, 1) / price(upstream, draws))


def test_vega_computes_the_same() -> None:
    """The numbers in the cells of the still picture, to two digits behind the point, in any order."""
    block = explorer(kappa=4.0, ratio=10.0, other=25.0, base=2)
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)
    svg = vl_convert.vegalite_to_svg({**json.loads(content), "width": 600})
    shown = sorted(re.findall(r">(\d+\.\d\d)</text>", svg))
    # the sliders stand at hundredths of a power of ten
    kappa, ratio, other = (10 ** round(math.log10(v), 2) for v in (4.0, 10.0, 25.0))
    wanted = [f"{worth(r, k, kappa, ratio, other, 2):.2f}" for r in PLACES for k in PLACES]
    legend = len(shown) - len(wanted)
    assert 0 <= legend <= 5
    left = list(shown)
    for number in wanted:
        left.remove(number)
    assert len(left) == legend


def test_the_sliders_start_at_the_run() -> None:
    block = explorer(kappa=1.65, ratio=0.001, other=181.2, base=8)
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)
    params = {p["name"]: p["value"] for p in json.loads(content)["params"]}
    assert params == {"kappa": 0.22, "ratio": -1, "other": 2.26, "base": 8}
