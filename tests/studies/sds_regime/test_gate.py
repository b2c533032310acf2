"""The gate: text-to-3D from the shipped wild teacher lies where reuse pays."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from carv_distill.tasks import load_config, train
from studies.intervals import least_ratio
from studies.sds_regime.cells import CONFIG, PROMPTS, STEPS, Cell, measure, shapes, training
from studies.sentences import estimate
from tests.helpers.small import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_within_is_surely_ten_times_between(prompt: str, tmp_path: Path) -> None:
    """Early, after 50 steps of the shipped configuration and files, at guidance 7.5: 100 renders, 4 levels, 2
    noises; the lower end of W over the upper end of B. With one picture a render it is not."""
    run = training(prompt, 0, 50)
    config = load_config(ROOT / CONFIG, [*run.words, f"name={run.name}", f"folder={tmp_path}"])
    train(config)
    ratios = {}
    for augment in ("draw", "render"):
        b = measure(tmp_path, Cell(prompt, 0, 50, augment), 100)
        ratios[augment] = least_ratio([(b.within, b.between)])
    assert ratios["draw"] >= 10
    assert ratios["render"] < 10


@pytest.mark.slow
def test_the_objects_of_a_gate_are_compared_with_their_solids(tiny_run: Path) -> None:
    (row,) = shapes(tiny_run.parent, ["a torus"], [0], 1)
    assert row["likeness"] == pytest.approx(sum(row["by_elevation"]) / 2)
    assert 0.2 < row["likeness"] < 1


@pytest.mark.parametrize("regularised", [False, True])
def test_the_gate_as_measured(regularised: bool) -> None:
    """Of every prompt and seed, over the steps fixed beforehand, in results/sds_regime."""
    table = pd.read_csv(ROOT / "results/sds_regime/gate.csv", comment="#")
    table = table[(table.augment == "draw") & (table.regularised == regularised)]
    runs = dict(list(table.groupby(["prompt", "seed"])))
    assert set(runs) == {(prompt, seed) for prompt in PROMPTS for seed in (0, 1)}
    for rows in runs.values():
        states = rows.to_dict("records")
        assert tuple(row["step"] for row in states) == STEPS
        assert least_ratio([(estimate(row, "within"), estimate(row, "between")) for row in states]) >= 10
