"""Interval score matching: two predictions along one inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.teachers.condition import Cond, Condition, HeldCondition, repeated
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.parametrisation import Coefficients
from carv_distill.teachers.schedule import DiscreteSchedule

from .options import ISMOptions


class IntervalScore(GuidedDenoiser):
    """What takes the place of ε̂ in the residual w(t) (ε̂ − c ε), here with c = 0:

        ε̂(x_t, t, y) under guidance − ε̂(x_s, s, ∅),    s = max(t − δ_T, 0).

    x_s comes of x by DDIM without a prompt, in steps of δ_S from timestep 0, and x_t of x_s by one more:

        x_b = x_a + (σ_b − σ_a) ε̂(x_a, a, ∅)    (x = x_0 + σ ε, the process without its factor α).

    So a draw takes ⌈s/δ_S⌉ + 1 predictions without a prompt, one after the other, and those of guidance. All
    of it is a function of t but for x at timestep 0, which is x + σ_0 ε as in the published code, with σ_0
    the least level: ε hardly matters, a coupling of the noises even less, and what CARV has to give is K
    levels t of one render, by importance and strata. The host waits for the device once in each call.

    Args:
        guided: at x_t; any negative prompt is its own.
        none: the condition that stands for no prompt, without a row axis.
        schedule: of the teacher.

    Source: LucidDreamer, arXiv 2311.11284, equations 12 to 15 and algorithm 1.
    """

    def __init__(
        self,
        guided: GuidedDenoiser,
        none: Tensor | Condition,
        schedule: DiscreteSchedule,
        options: ISMOptions,
    ) -> None:
        super().__init__(guided, guided.scale, guided.null.value)
        self.guided, self.none = guided, HeldCondition(none)
        self.plain = NetworkDenoiser(guided.network, guided.precondition)
        self.schedule, self.options = schedule, options
        self.interval, self.stride = (
            max(1, round(share * schedule.timesteps)) for share in (options.interval, options.stride)
        )

    def at_scale(self, scale: float) -> IntervalScore:
        return IntervalScore(self.guided.at_scale(scale), self.none.value, self.schedule, self.options)

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """The term of x; σ of a timestep of the schedule. Arguments and shape as of every denoiser."""
        t = self.schedule.place_of(sigma)
        s = (t - self.interval).clamp(min=0)
        y = self.inverted(x, s, eps)
        clean, none = self.prediction(y, self.at(s, x))
        c = self.coefficients(x, sigma)
        y = c.noised(clean, none)
        return c.eps_skip * y + c.eps_out * self.guided.raw(y, c, cond) - none

    def inverted(self, x: Tensor, timestep: Tensor, eps: Tensor) -> Tensor:
        """The network's input α x_s at timesteps s [n]; rows that are there stay, and cost nothing."""
        steps = (timestep + self.stride - 1) // self.stride
        steps, order = steps.sort(descending=True, stable=True)
        x, eps, timestep = x[order], eps[order], timestep[order]
        start = torch.zeros_like(timestep)
        y = self.at(start, x).noised(x, eps)
        for done, rows in enumerate(_rows_left(steps.tolist())):
            before = start[:rows] + done * self.stride
            after = torch.minimum(before + self.stride, timestep[:rows])
            clean, noise = self.prediction(y[:rows], self.at(before, x))
            y = torch.cat([self.at(after, x).noised(clean, noise), y[rows:]])
        return y[order.argsort()]

    def at(self, timestep: Tensor, like: Tensor) -> Coefficients:
        """The preconditioning at timesteps [n], shaped to multiply x."""
        return self.coefficients(like, self.schedule.sigma_at(timestep, like))

    def prediction(self, y: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        """(x̂, ε̂) without a prompt."""
        raw = self.plain.raw(y, c, repeated(self.none.value, len(y)))
        return c.skip * y + c.out * raw, c.eps_skip * y + c.eps_out * raw


def _rows_left(steps: list[int]) -> list[int]:
    """How many rows take a first step, a second one and so on, of numbers of steps in falling order."""
    return [sum(count > done for count in steps) for done in range(steps[0])]
