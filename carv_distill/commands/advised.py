"""The training that an advice of `evaluate.py variance` asks for, as it is typed."""

from __future__ import annotations

import shlex
from pathlib import Path

from carv_distill.engine.folder import CONFIG
from carv_distill.errors import UserError
from carv_distill.tasks import load_config

STRATEGIES = {
    "uniform": "iid",
    "IW": "iid",
    "Strat": "stratified",
    "IW+Strat": "stratified",
    "best": "nested",
}
"""Of the noise levels, by sampler."""


def advised_training(
    run: Path, sampler: str, upstream: int, draws: int, noise: str, known: bool
) -> str | None:
    """A training like the run's at the advised (R, K) and sampler. A proposal that was measured is learned on
    the way: as strata want it, or, where coupled noises would mislead that, as iid draws do.

    Args:
        sampler: a key of :data:`STRATEGIES`; any other is the run's own.
        noise: coupling of the noises of `best`.
        known: whether the task knows a proposal without learning it, as text-to-3D does by w(t).

    Returns:
        None where the options do not allow it, as one draw a sample that nothing can be learned from.
    """
    words = [f"estimator.upstream={upstream}", f"estimator.draws={draws}"]
    if sampler in STRATEGIES:
        words.append(f"estimator.strategy={STRATEGIES[sampler]}")
        words.append(f"estimator.noise={noise if sampler == 'best' else 'iid'}")
        words += _proposal(sampler, noise, known)
    config = run / CONFIG
    words.append(f"name={run.name}_advised")
    try:
        load_config(config, words)
    except UserError:
        return None
    return shlex.join(["python", "train.py", "--config", str(config), *words])


def _proposal(sampler: str, noise: str, known: bool) -> list[str]:
    if sampler in ("uniform", "Strat"):
        return ["estimator.proposal=uniform"]
    if sampler != "best" and known:
        return ["estimator.proposal=weighting"]
    wanted = "neyman" if sampler == "best" and noise == "iid" else "second_moment"
    return ["estimator.proposal=adaptive", f"estimator.statistic={wanted}"]
