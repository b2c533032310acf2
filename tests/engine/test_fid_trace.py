"""FID beside the updates: when it is measured, on which seeds, and which captions a grid shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.digits import load_digits_images
from carv_distill.engine import fid_trace
from carv_distill.engine.fid_trace import FIDTrace, spread
from carv_distill.evaluation.generate import image_latents
from carv_distill.evaluation.options import FIDOptions
from carv_distill.evaluation.reference import FIDSetup


@pytest.mark.parametrize(
    ("count", "most", "shown"),
    [(3, 12, [0, 1, 2]), (9, 3, [0, 4, 8]), (224, 4, [0, 74, 148, 223]), (1, 12, [0])],
)
def test_captions_of_a_grid_lie_at_equal_distances(count: int, most: int, shown: list[int]) -> None:
    assert spread(count, most).tolist() == shown


class Rows:
    """A trainer at some update whose logger keeps the rows."""

    def __init__(self) -> None:
        self.global_step, self.max_steps, self.global_rank, self.world_size = 0, 5, 0, 1
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.loggers = [SimpleNamespace(log_metrics=lambda values, step: self.rows.append((step, values)))]


def test_every_measurement_is_of_the_same_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, at every second update and after the fifth, the last; a grid of a column for each class.
    Digits as bytes beside themselves have all precision."""
    data = load_digits_images()
    seen: list[Tensor] = []

    def sample(z: Tensor, labels: Tensor) -> Tensor:
        seen.append(z)
        return data.images[torch.randint(len(data), (len(z),), generator=stream("fid trace"))]

    monkeypatch.setattr(fid_trace, "save_grid", _recorded(grids := [], fid_trace.save_grid))
    logged: dict[str, float] = {}
    module: Any = SimpleNamespace(
        device="cpu", sample=sample, log=lambda name, value, logger: logged.update({name: value})
    )
    trainer: Any = Rows()
    setup = FIDSetup.load(FIDOptions(every=2, images=40), data, 0, "cpu")
    trace = FIDTrace(setup, tmp_path)
    trace.on_train_start(trainer, module)
    for trainer.global_step in range(1, 6):
        trace.on_train_batch_end(trainer, module)
    assert [step for step, _ in trainer.rows] == [0, 2, 4, 5]
    assert len({values["fid/fid"] for _, values in trainer.rows}) == 1
    assert trainer.rows[0][1]["fid/precision"] == 1
    assert logged == {"fid": trainer.rows[0][1]["fid/fid"]}
    measured = [z for z in seen if len(z) == 40]
    assert all(torch.equal(z, image_latents(range(40), (1, 8, 8), 10)[0]) for z in measured)
    assert grids == [10] * 4
    assert Image.open(tmp_path / "000005.png").width == 10 * (8 + 1) * 4 + 4


def _recorded(columns: list[int], save: Any) -> Any:
    def recorded(*args: Any, **named: Any) -> None:
        columns.append(named["columns"])
        save(*args, **named)

    return recorded
