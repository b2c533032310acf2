"""Samples as a model's loss takes them: what is denoised, on which condition, and where errors count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.teachers.condition import Cond, tensors


@dataclass(frozen=True)
class SampleBatch:
    """n samples of a training set, or queries."""

    x: Tensor
    """What the model denoises, [n, C, …]: pixels or scaled latents."""
    cond: Cond = None
    """Labels or prompts' conditions, of n rows; None of an unconditional model."""
    weight: Tensor | None = None
    """Of the squared error at each position, ≥ 0 with mean 1 in each sample, [n, …]: as x without channels.
    None: all positions count the same."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> SampleBatch:
        """Some samples, in any order and as often as wanted."""
        i = rows if isinstance(rows, slice | Tensor) else torch.tensor(rows)
        return SampleBatch(
            self.x[i],
            None if self.cond is None else self.cond[i],
            None if self.weight is None else self.weight[i],
        )

    def sample(self, number: int) -> tuple[Tensor, Cond, Tensor | None]:
        """x, condition and weights of one sample, without the row axis."""
        cond = None if self.cond is None else self.cond[number]
        return self.x[number], cond, None if self.weight is None else self.weight[number]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> SampleBatch:
        """On a device; x and weights in another precision, if one is given. Conditions keep theirs."""
        return SampleBatch(
            self.x.to(device, dtype),
            None if self.cond is None else self.cond.to(device),
            None if self.weight is None else self.weight.to(device, dtype),
        )

    def tensors(self) -> list[Tensor]:
        """All that it is made of."""
        return [self.x, *tensors(self.cond), *([] if self.weight is None else [self.weight])]
