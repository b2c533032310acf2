"""The line that trains by an advice: every sampler's, as the options take it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from carv_distill.commands.advised import STRATEGIES, advised_training
from carv_distill.tasks import load_config
from tests.helpers.runs import as_run


def read(line: str | None) -> Any:
    """The configuration that a line asks for."""
    assert line is not None
    python, script, flag, config, *words = shlex.split(line)
    assert (python, script, flag) == ("python", "train.py", "--config")
    return load_config(config, words)


@pytest.mark.parametrize("name", ["dmd_carv", "sds_carv"])
@pytest.mark.parametrize("sampler", STRATEGIES)
def test_every_sampler_is_trained_by(sampler: str, name: str, tmp_path: Path) -> None:
    """With a name of its own, in a folder whose name needs quotes."""
    run, known = as_run(load_config(name, [f"folder={tmp_path}/my runs"])), name == "sds_carv"
    e = read(advised_training(run, sampler, 6, 2, "antithetic", known)).estimator
    assert (e.upstream, e.draws, e.strategy) == (6, 2, STRATEGIES[sampler])
    learned = sampler == "best" or (sampler in ("IW", "IW+Strat") and not known)
    assert (e.proposal == "adaptive") is learned
    assert (e.proposal == "uniform") is (sampler in ("uniform", "Strat"))
    assert e.noise == ("antithetic" if sampler == "best" else "iid")


def test_strata_learn_by_neyman_unless_noises_are_coupled(tmp_path: Path) -> None:
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}"]))
    plain, coupled = (read(advised_training(run, "best", 8, 4, n, False)) for n in ("iid", "antithetic"))
    assert (plain.estimator.statistic, coupled.estimator.statistic) == ("neyman", "second_moment")
    assert plain.name == f"{run.name}_advised"


def test_the_runs_own_sampler_stays(tmp_path: Path) -> None:
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}", "estimator.strategy=systematic"]))
    e = read(advised_training(run, "own", 5, 3, "iid", False)).estimator
    assert (e.upstream, e.draws, e.strategy) == (5, 3, "systematic")


def test_what_the_options_refuse_is_not_offered(tmp_path: Path) -> None:
    """Neyman's statistic needs two draws of a sample."""
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}"]))
    assert advised_training(run, "best", 8, 1, "iid", False) is None
