"""The pilot of `dmd_gap`: how to spend equal seconds, and which coupling of the noise to use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from carv_distill.carv import stream
from carv_distill.commands.target import load_target
from carv_distill.distillation.cost import time_other
from carv_distill.distillation.module import DMDModule
from carv_distill.files import write_json
from carv_distill.variance import CostModel, NoiseParity, StageTimer, time_stages


@dataclass(frozen=True)
class Plan:
    """What the pilot found. Seconds are of one thread, as the study's runs use."""

    upstream: int
    """R' of (R',1) iid: its gradient takes the seconds of (8,16)."""
    noise: str
    """The noise coupling of the best arm."""
    base: float
    """Seconds of one update at (8,1)."""
    reuse: float
    """Seconds of one update at (8,16)."""
    more: float
    """Seconds of one update at (R',1)."""

    @property
    def longer(self) -> float:
        """How many times more updates (8,1) makes in the seconds of (8,16)."""
        return self.reuse / self.base


def make_plan(run: Path, kept: Path) -> Plan:
    """Times a trained pilot run and measures the parity of its noise.

    Args:
        run: of the pilot.
        kept: JSON of the plan; one that exists is read, so that a study that goes on keeps its arms.
    """
    if kept.is_file():
        return Plan(**json.loads(kept.read_text()))
    target = load_target(run, "cpu")
    module, key = target.module, stream("parity", target.step)
    assert isinstance(module, DMDModule)
    parity = NoiseParity.measure(module.pipeline, target.parameters, key, upstreams=48, draws=16)
    with _one_thread():
        timer = StageTimer()
        time_other(module, timer, repeats=20)
        other = timer.median("other")
        wanted = gradient_seconds(module, 8, 16)
        upstream = equal_upstream(wanted, lambda r: gradient_seconds(module, r, 1), 8, 8 * 17)
        plan = Plan(
            upstream,
            parity.gate(),
            base=other + gradient_seconds(module, 8, 1),
            reuse=other + wanted,
            more=other + gradient_seconds(module, upstream, 1),
        )
    write_json(kept, asdict(plan))
    return plan


def gradient_seconds(module: DMDModule, upstream: int, draws: int) -> float:
    """Seconds of one gradient at (R, K), timed at just these batch sizes: small batches cost more each."""
    timer = StageTimer()
    parameters = list(module.student.parameters())
    time_stages(module.pipeline, parameters, module.sampler, upstream, draws, timer, repeats=20)
    return CostModel.measured(timer)(upstream, draws)


def equal_upstream(wanted: float, seconds: Callable[[int], float], low: int, high: int) -> int:
    """The largest R in low … high whose gradient takes at most the wanted seconds, by bisection."""
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
