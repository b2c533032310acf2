"""The race at equal price, on made-up curves and on a small run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carv_distill.tasks import load_config
from carv_distill.text_to_3d.options import SDSConfig
from studies.gradient import load_gradient
from studies.sds_frontier.prices import Prices, measure_prices
from studies.sds_regime import race
from studies.sds_regime.cells import CONFIG
from studies.sds_regime.figures import draw_race
from tests.helpers.small import ROOT

PRICES = Prices(4.0, 0.05, 0.0, {"4,1": 0.2, f"1,{race.K}": 0.2, "1,1": 0.05})


def table(rise: dict[str, float]) -> pd.DataFrame:
    """Curves 0.8 (1 − e^(−t/rise)) of every arm in 80 s of the baseline, prompts and seeds a little apart."""
    rows = []
    for racer in race.RACERS:
        for i, prompt in enumerate(race.PROMPTS):
            for seed in race.SEEDS[: racer.seeds]:
                for number in range(race.UPDATES // race.EVERY + 1):
                    step = number * race.EVERY * racer.longer
                    seconds = step * PRICES.step(racer.upstream, racer.draws)
                    value = (0.8 + 0.01 * i + 0.001 * seed) * (1 - np.exp(-seconds / rise[racer.name]))
                    place = (racer.name, prompt, seed, step, seconds)
                    rows.append((*place, value, 100 * value))
    return pd.DataFrame(rows, columns=["arm", "prompt", "seed", "step", "seconds", "likeness", "clip"])


def test_an_arm_that_rises_twice_as_fast_needs_half_the_seconds() -> None:
    rise = {racer.name: 8.0 for racer in race.RACERS} | {race.DECIDING: 4.0, race.RACERS[3].name: 40.0}
    points = table(rise)
    rows = race.rows_of(points, PRICES, seed=0)
    by_arm = {row["arm"]: row for row in rows}
    fast, slow = by_arm[race.DECIDING], by_arm[race.RACERS[3].name]
    assert fast["share_to_plateau"] == pytest.approx(0.5, abs=0.06)
    assert fast["share_to_plateau_low"] <= fast["share_to_plateau"] <= fast["share_to_plateau_high"] < 0.65
    assert slow["share_to_plateau"] is None
    assert by_arm["(1,1) uniform"]["share_to_plateau"] == pytest.approx(1, abs=0.06)
    assert slow["plateau_difference"] < 0
    said = "\n".join(race.verdict(rows))
    assert "the deciding comparison" in said
    assert f"{race.RACERS[3].name}, 1.00 of the price of an update: on that plateau after never" in said
    cheaper = PRICES.step(1, 1) / PRICES.step(4, 1)
    assert cheaper < 0.9
    assert f"(1,1) uniform, {cheaper:.2f} of the price of an update: on that plateau after 1.0" in said
    assert len(draw_race(points).axes) == 2
    assert [row["seeds"] for row in rows] == [3, 3, 1, 1, 1]


def test_arms_of_fewer_seeds_are_compared_with_the_baseline_of_these() -> None:
    """A baseline that is better at its other seeds: only an arm that has them sees it."""
    seconds = np.ones((6, 3, 4))
    base = seconds * np.array([1.0, 2.0, 2.0])[:, None] + np.arange(6)[:, None, None]
    one = base[:, :1] + 0.5
    curves = {race.BASE.name: base, race.DECIDING: base} | {r.name: one for r in race.RACERS[2:]}
    apart = race.plateau_differences(curves)
    assert apart[race.DECIDING].value == pytest.approx(0)
    assert apart["(1,1) uniform"].value == pytest.approx(0.5)
    trained = race.trainings(race.PROMPTS, race.SEEDS)
    assert len(trained) == 54
    assert {s for r, _, s in trained if r.name == "(1,1) uniform"} == {race.SEEDS[0]}


@pytest.mark.parametrize(
    ("arm", "share"), [([0.0, 0.5, 0.99, 1.0], 1.5), ([1.0] * 4, 0.5), ([0.5] * 4, np.inf)]
)
def test_the_share_of_the_seconds(arm: list[float], share: float) -> None:
    """The baseline is on its plateau from the second time on."""
    base = np.array([0.4, 1.0, 1.0, 1.0])
    assert race.share_to_plateau(np.array(arm), base) == share


def test_every_arm_is_the_run_that_it_names() -> None:
    """Its (R, K), its updates, and seeds that nothing was chosen on."""
    for racer in race.RACERS:
        run = racer.run("a mug", 3, race.UPDATES)
        config = load_config(ROOT / CONFIG, [*run.words, f"name={run.name}"])
        assert isinstance(config, SDSConfig)
        assert (config.estimator.upstream, config.estimator.draws) == (racer.upstream, racer.draws)
        assert config.trainer.max_steps == race.UPDATES * racer.longer
        assert config.trainer.max_steps % config.checkpoint.every == 0
        assert config.sds.augment == "draw"
    assert not set(race.SEEDS) & {0, 1}


@pytest.mark.slow
def test_the_likeness_of_every_checkpoint(tiny_run: Path) -> None:
    """And of the blob that all runs start from."""
    (start, zero), (first, one), (second, two) = race.likeness_of(tiny_run, "torus")
    assert (start, first, second) == (0, 1, 2)
    assert 0.2 < zero < 1
    assert len({zero, one, two}) == 3


@pytest.mark.slow
def test_all_arms_have_a_price(tiny_run: Path) -> None:
    gradient = load_gradient(tiny_run)
    prices = measure_prices(gradient, [(r.upstream, r.draws) for r in race.RACERS], rounds=1)
    assert all(prices.step(r.upstream, r.draws) > 0 for r in race.RACERS)
    assert prices.step(4, 1) > prices.step(1, 1)


def test_prompts_that_start_above_their_level_tell_nothing() -> None:
    """The first starts at 1 and ends at 0.9, the second rises from 0.2 to 0.8: the second is kept."""
    ends = np.array([[np.full(10, 0.9)], [np.full(10, 0.8)]])
    curves = {racer.name: ends for racer in race.RACERS}
    rows = [
        {"arm": race.BASE.name, "prompt": prompt, "step": step, "likeness": value}
        for prompt, start, end in (("a ball", 1.0, 0.9), ("a torus", 0.2, 0.8))
        for step, value in ((0, start), (20, end))
    ]
    kept = race.rising(curves, pd.DataFrame(rows))
    assert all(np.array_equal(values, ends[1:]) for values in kept.values())
