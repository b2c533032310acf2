"""The line that trains by an advice: every sampler's, as the options take it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.commands.advised import advised_training
from carv_distill.tasks import load_config
from carv_distill.variance import standard_arms
from carv_distill.variance.analysis import OWN
from tests.helpers.runs import as_run


def read(line: str | None) -> Any:
    """The configuration that a line asks for."""
    assert line is not None
    python, script, flag, config, *words = shlex.split(line)
    assert (python, script, flag) == ("python", "train.py", "--config")
    return load_config(config, words)


def standard(noise: str = "iid") -> dict[str, NoiseLevelSampler]:
    q = Proposal.from_weights([1.0, 2.0])
    return {arm.name: arm.sampler for arm in standard_arms(q, q, noise)}


@pytest.mark.parametrize("name", ["dmd_carv", "sds_carv"])
@pytest.mark.parametrize("arm", standard())
def test_every_sampler_is_trained_by(arm: str, name: str, tmp_path: Path) -> None:
    """With a name of its own, in a folder whose name needs quotes."""
    run, known = as_run(load_config(name, [f"folder={tmp_path}/my runs"])), name == "sds_carv"
    sampler = standard("antithetic")[arm]
    e = read(advised_training(run, arm, sampler, 6, 2, known)).estimator
    assert (e.upstream, e.draws, e.strategy, e.noise) == (6, 2, sampler.strategy, sampler.noise)
    learned = arm == "best" or (arm in ("IW", "IW+Strat") and not known)
    assert (e.proposal == "adaptive") is learned
    assert (e.proposal == "uniform") is (arm in ("uniform", "Strat"))


def test_strata_learn_by_neyman_unless_noises_are_coupled(tmp_path: Path) -> None:
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}"]))
    plain, coupled = (
        read(advised_training(run, "best", standard(noise)["best"], 8, 4, False))
        for noise in ("iid", "antithetic")
    )
    assert (plain.estimator.statistic, coupled.estimator.statistic) == ("neyman", "second_moment")
    assert plain.name == f"{run.name}_advised"


def test_the_runs_own_sampler_stays(tmp_path: Path) -> None:
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}", "estimator.proposal=adaptive"]))
    own = NoiseLevelSampler(Proposal.uniform(), "systematic")
    e = read(advised_training(run, OWN, own, 5, 3, False)).estimator
    assert (e.upstream, e.draws, e.strategy, e.proposal) == (5, 3, "systematic", "adaptive")


def test_what_the_options_refuse_is_not_offered(tmp_path: Path) -> None:
    """Neyman's statistic needs two draws of a sample."""
    run = as_run(load_config("dmd_carv", [f"folder={tmp_path}"]))
    assert advised_training(run, "best", standard()["best"], 8, 1, False) is None
