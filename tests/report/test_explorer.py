"""The explorer computes what the package does."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
import vl_convert

from carv_distill.report.explorer import PLACES, explorer, steps, worth
from carv_distill.variance import CostModel


@pytest.mark.parametrize(("upstream", "draws"), [(1, 1), (8, 16), (2, 64)])
def test_worth_is_variance_times_cost(upstream: int, draws: int) -> None:
    """By the package's own cost model, B = 2 and W = 6."""
    cost = CostModel(upstream=3.0, draw=0.5, backward=1.0, other=20.0)

    def work(r: int, k: int) -> float:
        return (2 + 6 / k) / r * cost(r, k)

    own = worth(upstream, draws, cost.kappa, 3.0, 20.0 / 0.5, 4)
    assert own == pytest.approx(work(4, 1) / work(upstream, draws))


def spec_of(block: str) -> dict[str, Any]:
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)
    spec: dict[str, Any] = json.loads(content)
    return spec


def sliders_of(block: str) -> dict[str, tuple[int, dict[str, list[Any]]]]:
    """By signal: where it stands, and the values and labels of its steps."""
    found = re.findall(r'value="(\d+)"[^>]*data-signal="(\w+)" data-steps="([^"]+)"', block)
    return {signal: (int(start), json.loads(html.unescape(steps))) for start, signal, steps in found}


def test_vega_computes_the_same() -> None:
    """The numbers in the cells of the still picture, to two digits behind the point, in any order."""
    spec = spec_of(explorer(kappa=4.0, ratio=10.0, other=25.0, base=2))
    svg = vl_convert.vegalite_to_svg({**spec, "width": 600})
    shown = sorted(re.findall(r">(\d+\.\d\d)</text>", svg))
    assert shown == sorted(f"{worth(r, k, 4.0, 10.0, 25.0, 2):.2f}" for r in PLACES for k in PLACES)


def test_the_sliders_start_at_the_run_and_say_so() -> None:
    """At its own values, however small or large, and with their units; nothing is clamped."""
    block = explorer(kappa=1.65, ratio=0.001, other=181.2, base=8)
    params = {p["name"]: p["value"] for p in spec_of(block)["params"]}
    assert params == {"kappa": 1.65, "ratio": 0.001, "other": 181.2, "base": 8}
    shown = {name: each["labels"][start] for name, (start, each) in sliders_of(block).items()}
    assert shown == {
        "kappa": "1.65 draws, this run", "ratio": "0.001, this run", "other": "181 draws, this run"
    }  # fmt: skip
    for name, (start, each) in sliders_of(block).items():
        assert each["values"][start] == params[name]
        assert each["values"] == sorted(set(each["values"]))


def test_steps_are_round_numbers_and_cover_what_was_measured() -> None:
    assert steps(1.7, (1, 10)) == [1, 1.2, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 8, 10]
    assert steps(3.0, (1, 10)).count(3.0) == 1
    assert steps(3.001, (1, 10))[5] == 3.001  # and no 3 that reads the same
    assert 3.0 not in steps(3.001, (1, 10))
    assert (steps(0.002, (0.1, 10))[0], steps(250, (0.1, 10))[-1]) == (0.001, 1000)
    assert steps(0.0, (0.1, 1))[:2] == [0.0, 0.1]
    assert steps(5, (0, 10))[0] == 0.0


def test_an_interval_beyond_the_scale_widens_it() -> None:
    ends = {}
    for ratios in (None, (0.02, 4000.0)):
        _, each = sliders_of(explorer(kappa=1, ratio=7, other=0, base=1, ratios=ratios))["ratio"]
        ends[ratios] = each["values"][0], each["values"][-1]
    assert ends == {None: (0.1, 100), (0.02, 4000.0): (0.01, 10_000)}


def test_the_run_s_own_cell_is_outlined() -> None:
    """Also where it is no power of two, or larger than all of them."""
    block = explorer(kappa=2, ratio=3, other=1, base=96, own=(96, 3), upstream="render")
    spec = spec_of(block)
    assert spec["layer"][-1]["transform"] == [{"filter": "datum.R == 96 && datum.K == 3"}]
    assert {"R": 96, "K": 3} in spec["data"]["values"]
    assert "Outlined: this run, R = 96, K = 3." in block
    assert "cost of one render" in block


@pytest.mark.parametrize("other", [0, 181.2])
def test_the_other_work_can_be_small(other: float) -> None:
    """None, or from one draw on, wherever it stands first."""
    _, each = sliders_of(explorer(kappa=4, ratio=24, other=other, base=1))["other"]
    assert each["values"][:3] == [0, 1, 1.2]
    assert len(each["values"]) > 40
