"""Updates of a distillation inside a real trainer, against the bare network calls they consist of."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.measure import bare_fit
from carv_distill.carv import stream
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import load_config
from carv_distill.teachers.adapters import AdapterView
from carv_distill.teachers.condition import Cond, joined, repeated
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser

WARM_UP = 3
Call = Callable[[], object]
Part = tuple[Callable[[], AbstractContextManager[None]], Call]
"""What makes the context that a call stands in, which is not timed, and the call."""


def build(config: Path, *overrides: str) -> DMDModule:
    """The module of a configuration, outside a trainer."""
    loaded = load_config(config, overrides)
    assert isinstance(loaded, DMDConfig)
    module = build_module(loaded, load_data(loaded))
    assert isinstance(module, DMDModule)
    return module


class Timed(DMDModule):
    """Times its own updates and, in turn with them, their network calls made by hand."""

    seconds: dict[str, list[float]]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        # In a new order each round: what ran before leaves the caches as it does.
        sides = self.sides(step)
        for name in random.Random(step).sample(list(sides), len(sides)):
            spent = sum(map(_seconds, sides[name]))
            if step >= WARM_UP:
                self.seconds[name].append(spent)
            self.zero_grad()  # what a bare backward left is not the next side's to add to

    def sides(self, step: int) -> dict[str, Sequence[Part]]:
        """What is timed, by name."""
        fake_optimizers = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1:]
        student_optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        o, e = self.objective, self.estimator
        r, k = e.upstream, e.draws
        z, labels = o.upstream_noise(r, stream(0))
        many = torch.randn(r * k, *o.shape), o.conditions(labels.repeat_interleave(k))
        samples = o.student_samples(stream(1))
        generated, of_generated = samples

        def update_fake() -> None:
            self.fake_update(fake_optimizers, step, 0, [samples], [None])

        def whole() -> None:
            self.fake_updates(fake_optimizers, step)
            self.student_update(student_optimizer, step)

        student = [
            bare(o.student, z, o.conditions(labels), backward=True),
            bare(o.teacher, *many),
            bare(o.fake, *many),
        ]
        fake = bare(o.fake, generated, of_generated, backward=True)
        sampled = bare(o.student, generated, of_generated)
        updates = self.options.fake_updates_per_student
        sets = 1 if self.options.fake_reuse else updates

        wholes: dict[str, Call] = {
            "step": whole,
            "student update": lambda: self.student_update(student_optimizer, step),
            "fake-score update": update_fake,
            "drawing": lambda: e.sampler.draw(r, k, o.shape, generator=stream(0)),
        }
        return {
            **{name: [(nullcontext, call)] for name, call in wholes.items()},
            "bare student": student,
            "bare fake": [fake],
            "bare step": [*student, *[fake] * updates, *[sampled] * sets],
        }


def bare(denoiser: NetworkDenoiser, x: Tensor, cond: Cond, backward: bool = False) -> Part:
    """One call of a denoiser's network, under guidance with both conditions; an adapter is put on before."""
    network: nn.Module = denoiser.network
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    if isinstance(denoiser, GuidedDenoiser):
        assert cond is not None
        x, cond = torch.cat([x, x]), joined(cond, repeated(denoiser.null.value, len(x)))
    if isinstance(network, AdapterView):
        context, network = partial(network.shared.active, network.name), network.shared.network
    level = torch.ones(len(x))

    def call() -> None:
        with torch.set_grad_enabled(backward):
            output = network(x, level, cond)
        if backward:
            output.sum().backward()

    return context, call


def _seconds(part: Part) -> float:
    context, call = part
    with context():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def timed(module: DMDModule, rounds: int) -> dict[str, list[float]]:
    """Seconds of every side, measured in turn, `rounds` times each after the warm-up."""
    module.__class__ = Timed
    assert isinstance(module, Timed)
    module.seconds = defaultdict(list)
    bare_fit(module, rounds + WARM_UP)
    return module.seconds
