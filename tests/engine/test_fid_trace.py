"""FID beside the updates: when it is measured, and on which seeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.digits import load_digits_images
from carv_distill.engine.fid_trace import FIDTrace
from carv_distill.evaluation.generate import image_latents
from carv_distill.evaluation.options import FIDOptions
from carv_distill.evaluation.reference import FIDSetup


class Rows:
    """A trainer at some update whose logger keeps the rows."""

    def __init__(self) -> None:
        self.global_step, self.max_steps, self.global_rank, self.world_size = 0, 5, 0, 1
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.callbacks: list[Any] = []
        self.loggers = [SimpleNamespace(log_metrics=lambda values, step: self.rows.append((step, values)))]


def test_every_measurement_is_of_the_same_seeds() -> None:
    """At the start, at every second update and after the fifth, the last. Digits as bytes beside themselves
    have all precision."""
    data = load_digits_images()
    seen: list[Tensor] = []

    def sample(z: Tensor, labels: Tensor) -> Tensor:
        seen.append(z)
        return data.images[torch.randint(len(data), (len(z),), generator=stream("fid trace"))]

    logged: dict[str, float] = {}
    module: Any = SimpleNamespace(
        device="cpu", sample=sample, log=lambda name, value, logger: logged.update({name: value})
    )
    trainer: Any = Rows()
    setup = FIDSetup.load(FIDOptions(every=2, images=40), data, 0, "cpu")
    trace = FIDTrace(setup)
    trace.on_train_start(trainer, module)
    for trainer.global_step in range(1, 6):
        trace.on_train_batch_end(trainer, module)
    assert [step for step, _ in trainer.rows] == [0, 2, 4, 5]
    assert len({values["fid/fid"] for _, values in trainer.rows}) == 1
    assert trainer.rows[0][1]["fid/precision"] == 1
    assert logged == {"fid": trainer.rows[0][1]["fid/fid"]}
    assert len(seen) == 4
    assert all(torch.equal(z, image_latents(range(40), (1, 8, 8), 10)[0]) for z in seen)
