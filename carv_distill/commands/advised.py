"""The training that an advice of `evaluate.py variance` asks for, as it is typed."""

from __future__ import annotations

import shlex
from pathlib import Path

from carv_distill.carv import NoiseLevelSampler
from carv_distill.engine.folder import CONFIG
from carv_distill.errors import UserError
from carv_distill.tasks import load_config


def advised_training(
    run: Path, arm: str, sampler: NoiseLevelSampler, upstream: int, draws: int, known: bool
) -> str | None:
    """A training like the run's at the advised (R, K) and sampler. A proposal that was measured is learned on
    the way: as strata want it, or, where coupled noises would mislead that, as iid draws do.

    Args:
        arm: the sampler's name among those that are compared; the proposal of any other is the run's own.
        known: whether the task knows a proposal without learning it, as text-to-3D does by w(t).

    Returns:
        None where the options do not allow it, as one draw a sample that nothing can be learned from.
    """
    options = {
        "upstream": upstream,
        "draws": draws,
        "strategy": sampler.strategy,
        "noise": sampler.noise,
        **_proposal(arm, sampler, known),
    }
    config = run / CONFIG
    words = [*(f"estimator.{key}={value}" for key, value in options.items()), f"name={run.name}_advised"]
    try:
        load_config(config, words)
    except UserError:
        return None
    return shlex.join(["python", "train.py", "--config", str(config), *words])


def _proposal(arm: str, sampler: NoiseLevelSampler, known: bool) -> dict[str, str]:
    match arm:
        case "uniform" | "Strat":
            return {"proposal": "uniform"}
        case "IW" | "IW+Strat":
            return {"proposal": "weighting"} if known else _learned("second_moment")
        case "best":
            return _learned("neyman" if sampler.noise == "iid" else "second_moment")
    return {}


def _learned(statistic: str) -> dict[str, str]:
    return {"proposal": "adaptive", "statistic": statistic}
