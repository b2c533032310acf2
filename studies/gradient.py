"""The gradient of a trained run, frozen at a step, as the studies measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from carv_distill.carv import Upstream
from carv_distill.tasks import TASKS, open_run
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.variance import CostModel, MeasuredGradient, StageTimer, time_stages


def load_gradient(
    run: Path,
    step: int | None = None,
    change: Callable[[Any], None] = lambda config: None,
    regularised: bool = False,
) -> MeasuredGradient:
    """Of a run at one of its checkpoints, without the objective's regularisers: the teacher's gradient alone.

    Args:
        step: of the checkpoint; the newest by default.
        change: what is to be other than the run's own configuration says.
        regularised: keep the regularisers.
    """
    task, config = open_run(run)
    change(config)
    load = TASKS[task.name].gradient
    assert load is not None
    gradient = load(config, run, "cpu", step)
    if regularised:
        return gradient

    def without_penalty(count: int, generator: torch.Generator) -> Upstream:
        return Upstream(*gradient.pipeline(count, generator))._replace(penalty=None)

    return replace(gradient, pipeline=without_penalty)


def price(gradient: MeasuredGradient, upstream: int, draws: int, repeats: int) -> CostModel:
    """Of one gradient at (R, K), timed at just these batch sizes: small batches cost more each."""
    timer = StageTimer()
    time_stages(gradient.sample, gradient.parameters, gradient.sampler, upstream, draws, timer, repeats)
    return CostModel.measured(timer)


def load_timesteps(run: Path) -> tuple[TimestepRange, str]:
    """The timesteps of a text-to-3D run whose range is not annealed, and its weighting w(t)."""
    _, config = open_run(run)
    assert isinstance(config, SDSConfig)
    assert config.sds.t_max_end in (None, config.sds.t_max)
    schedule = load_text_teacher(config.teacher.path).schedule
    return TimestepRange.of_shares(schedule, config.sds.t_min, config.sds.t_max), config.sds.weighting


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as the runs are trained."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
