"""Grids of samples: when, of which labels or prompts, and of how many."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from carv_distill.data.stored import spread
from carv_distill.engine.sample_grid import PIXELS_AT_ONCE, SampleGrid


@pytest.mark.parametrize(
    ("count", "most", "shown"),
    [(3, 12, [0, 1, 2]), (9, 3, [0, 4, 8]), (224, 4, [0, 74, 148, 223]), (1, 12, [0])],
)
def test_columns_lie_at_equal_distances(count: int, most: int, shown: list[int]) -> None:
    assert spread(count, most) == shown


class Sampler:
    """A module that paints each label's number, and keeps what it is asked for."""

    device = "cpu"

    def __init__(self, *shape: int) -> None:
        self.shape, self.calls = shape, list[tuple[Tensor, Tensor]]()

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        self.calls.append((z, labels))
        return (labels / 10).view(-1, *[1] * len(self.shape)).expand(-1, *self.shape)


def trainer_at(step: int, rank: int = 0) -> Any:
    return SimpleNamespace(global_step=step, max_steps=5, global_rank=rank, loggers=[])


def test_a_grid_at_the_start_every_few_updates_and_the_end(tmp_path: Path) -> None:
    """The same noise each time, a column for each label."""
    module, grid = Sampler(1, 8, 8), SampleGrid.of_labels(tmp_path, 2, 10, (1, 8, 8))
    grid.on_train_start(trainer_at(0), module)
    for step in range(1, 6):
        grid.on_train_batch_end(trainer_at(step), module)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["000000", "000002", "000004", "000005"]
    assert all(torch.equal(z, module.calls[0][0]) for z, _ in module.calls)
    assert module.calls[0][1].tolist() == [*range(10)] * 8
    with Image.open(tmp_path / "000005.png") as picture:
        assert picture.size == (10 * (8 + 1) * 4 + 4, 8 * (8 + 1) * 4 + 4)


@pytest.mark.parametrize("every", [0, 9])
def test_without_a_period_there_is_none(every: int, tmp_path: Path) -> None:
    """And with one longer than the run there is one at its end; a run that goes on has no second start."""
    module, grid = Sampler(1, 8, 8), SampleGrid.of_labels(tmp_path, every, 0, (1, 8, 8))
    grid.on_train_start(trainer_at(0 if every == 0 else 3), module)
    grid.on_train_batch_end(trainer_at(5), module)
    assert [path.stem for path in tmp_path.iterdir()] == (["000005"] if every else [])


def test_the_prompts_are_those_that_are_trained_on(tmp_path: Path) -> None:
    """Captions of the data, which are none of them, are not shown; other processes make pictures and write
    none."""
    texts, drawn = ["a", "b", "c", "d"], torch.tensor([3, 1, 3])
    module, grid = Sampler(3, 8, 8), SampleGrid.of_prompts(tmp_path, 1, texts, drawn, (4, 2, 2), (8, 8))
    assert grid.captions == ["b", "d"]
    grid.act(trainer_at(1, rank=1), module)
    ((z, labels),) = module.calls
    assert (z.shape, labels.tolist()) == ((8, 4, 2, 2), [1, 3] * 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "columns", "rows"),
    [((512, 512), 12, 4), ((1024, 1024), 12, 1), ((2048, 2048), 4, 1), ((81, 480, 832), 4, 1)],
)
def test_large_pictures_are_fewer(size: tuple[int, ...], columns: int, rows: int) -> None:
    texts = [str(n) for n in range(50)]
    grid = SampleGrid.of_prompts(Path(), 1, texts, torch.arange(50), (4, 2, 2), size)
    assert (len(grid.numbers), grid.rows) == (columns, rows)


def test_large_pictures_are_made_one_by_one_and_clips_are_rows(tmp_path: Path) -> None:
    """Of clips [n, 3, F, H, W]; the sheet has a row of frames for each prompt."""
    frames, side = 2, 1024
    assert frames * side**2 > PIXELS_AT_ONCE
    module = Sampler(3, frames, side, side)
    grid = SampleGrid.of_prompts(tmp_path, 1, ["a", "b"], torch.arange(2), (4, 1, 2, 2), (frames, side, side))
    grid.act(trainer_at(1), module)
    assert [len(z) for z, _ in module.calls] == [1, 1]
    with Image.open(tmp_path / "000001.png") as picture:
        assert picture.height == 2 * (side + 2) + 2
        assert picture.width > 2 * (side + 2) + 2
