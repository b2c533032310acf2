"""The denoising loss of a sample as a function of draws (u, ε), and what it is differentiated by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from carv_distill.attribution.options import PRECISIONS
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws
from carv_distill.teachers.condition import Cond, repeated
from carv_distill.teachers.denoiser import NetworkDenoiser, raw_and_ideal
from carv_distill.teachers.precision import at_least_float32
from carv_distill.teachers.schedule import NoiseSchedule

from .outputs import OUTPUTS
from .parameters import matching
from .projection import Layout


class SampleLoss(nn.Module):
    """L(φ; x, c) = 1/K Σ_k ω_k ℓ(φ; x, c, u_k, ε_k) of one sample, ℓ the denoising loss or another of
    :data:`~.outputs.OUTPUTS`, its positions weighed where a sample has weights; the draws are arguments, so
    that all samples can share them.

    Args:
        denoiser: its parameters are read, never changed. Any trailing shape of x.
        schedule: u → σ; with u uniform, the distribution of noise levels in the loss: that of the training
            where it is known.
        patterns: the gradient is by the parameters whose names in the network match one of these, as
            ``up_blocks.*.weight``, or belong to a preset (:data:`PRESETS`).
        precision: fp32: that of the weights; bf16: autocast; bf16-true: the network's weights are in bfloat16
            already.
        output: ℓ, by name.
        device: where the network computes; None: where those parameters are.

    Raises:
        UserError: no parameter of the network matches, or a pattern matches none.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        schedule: NoiseSchedule,
        patterns: Sequence[str] = ("*",),
        precision: str = "fp32",
        output: str = "loss",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
        self.denoiser, self.schedule = denoiser, schedule
        self.precision, self.output = precision, OUTPUTS[output]
        everything = dict(denoiser.network.named_parameters())
        self.chosen: dict[str, nn.Parameter] = {n: everything[n] for n in matching([*everything], patterns)}
        """The parameters that it is differentiated by, by name, in their order in a gradient."""
        first = next(iter(self.chosen.values()))
        self.layout = Layout(
            {name: p.numel() for name, p in self.chosen.items()},
            at_least_float32(first.dtype),
            first.device if device is None else torch.device(device),
        )

    def forward(self, x: Tensor, cond: Cond, weight: Tensor | None, draws: Draws) -> Tensor:
        """L, scalar; x, c of cond and weights of positions without the row axis; draws of u, weight [K],
        eps [K, …]."""
        return self._each(x, cond, weight, draws).mean()

    def _each(self, x: Tensor, cond: Cond, weight: Tensor | None, draws: Draws) -> Tensor:
        """ω_k ℓ(φ; x, c, u_k, ε_k), [K]."""
        count = len(draws.u)
        many = None if cond is None else repeated(cond, count)
        positions = None if weight is None else weight.expand(count, *weight.shape)
        sigma = self.schedule.sigma(draws.u)
        raw, ideal = raw_and_ideal(self.denoiser, x.expand(count, *x.shape), sigma, draws.eps, many)
        return draws.weight * self.output(raw, ideal, positions)

    @torch.no_grad()
    def of_samples(self, batch: SampleBatch, draws: Draws, chunk: int | None = None) -> Tensor:
        """L of each of n samples, [n], by the same draws.

        Args:
            chunk: draws that go through the network at a time; None: all.
        """
        count = len(draws.u)
        parts = [draws[i : i + (chunk or count)] for i in range(0, count, chunk or count)]
        with self.autocast():
            return torch.stack(
                [
                    torch.cat([self._each(*batch.sample(i), part) for part in parts]).mean()
                    for i in range(len(batch))
                ]
            )

    def autocast(self) -> AbstractContextManager[None]:
        """A block in which the network computes in its precision."""
        # a cached cast would outlive the transform, or the sample, that it was made in
        kind = self.layout.device.type
        on = self.precision == "bf16"
        return torch.autocast(kind, torch.bfloat16, enabled=on, cache_enabled=False)
