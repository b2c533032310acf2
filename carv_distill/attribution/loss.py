"""The denoising loss of a sample as a function of draws (u, ε), and what it is differentiated by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from carv_distill.teachers.condition import Cond, repeated
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_losses
from carv_distill.teachers.precision import at_least_float32
from carv_distill.teachers.schedule import NoiseSchedule

from .options import PRECISIONS
from .parameters import matching
from .projection import Layout


class SampleLoss(nn.Module):
    """L(φ; x, c) = 1/K Σ_k ω_k ℓ(φ; x, c, u_k, ε_k) of one sample, ℓ the denoising loss
    (:func:`denoising_losses`); the draws are arguments, so that all samples can share them.

    Args:
        denoiser: its parameters are read, never changed. Any trailing shape of x.
        schedule: u → σ; with u uniform, the distribution of noise levels in the loss: that of the training
            where it is known.
        patterns: the gradient is by the parameters whose names in the network match one of these, as
            ``up_blocks.*.weight``, or belong to a preset (:data:`PRESETS`).
        precision: fp32: that of the weights; bf16: autocast; bf16-true: the network's weights are in bfloat16
            already.

    Raises:
        UserError: no parameter of the network matches, or a pattern matches none.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        schedule: NoiseSchedule,
        patterns: Sequence[str] = ("*",),
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
        self.denoiser, self.schedule = denoiser, schedule
        self.precision = precision
        everything = dict(denoiser.network.named_parameters())
        self.chosen: dict[str, nn.Parameter] = {n: everything[n] for n in matching([*everything], patterns)}
        """The parameters that it is differentiated by, by name, in their order in a gradient."""
        first = next(iter(self.chosen.values()))
        self.layout = Layout(
            {name: p.numel() for name, p in self.chosen.items()}, at_least_float32(first.dtype), first.device
        )

    def forward(self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        """L, scalar; x, and c of cond, without the row axis; u, weight [K]; eps [K, …]."""
        draws = len(u)
        many = None if cond is None else repeated(cond, draws)
        losses = denoising_losses(self.denoiser, x.expand(draws, *x.shape), self.schedule.sigma(u), eps, many)
        return (weight * losses).mean()

    @torch.no_grad()
    def of_samples(self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        """L of each of n samples, [n]; x [n, …], cond of n rows."""
        with self.autocast():
            return torch.stack([self(x[i], row(cond, i), u, weight, eps) for i in range(len(x))])

    def autocast(self) -> AbstractContextManager[None]:
        """A block in which the network computes in its precision."""
        # a cached cast would outlive the transform, or the sample, that it was made in
        kind = self.layout.device.type
        on = self.precision == "bf16"
        return torch.autocast(kind, torch.bfloat16, enabled=on, cache_enabled=False)


def row(cond: Cond, number: int) -> Cond:
    """One row of a condition, without its axis."""
    return None if cond is None else cond[number]
