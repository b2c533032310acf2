"""Variational score distillation: the teacher against the score of the renders themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from carv_distill.carv import Draws, NoiseLevelSampler, Proposal
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.condition import Cond, Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser, denoising_losses
from carv_distill.text_to_3d.composition import compose

from .options import VSDOptions
from .residual import own_precision
from .timesteps import TimestepRange

ADAPTER = "fake"


@lru_cache(maxsize=1)
def _uniform(bins: int, strategy: str) -> NoiseLevelSampler:
    """One while the range of timesteps stays: its tables go to the device once."""
    return NoiseLevelSampler(Proposal.uniform(bins), strategy)


class FakeScore(nn.Module):
    """The score of the renders: low-rank adapters over the teacher's network, which is in memory once.

    It is told the prompt of the render's view, as the teacher is, and by it, where prompts have views, where
    the camera stands: an embedding of the camera itself, as published for Stable Diffusion alone, it has not.
    It begins as the teacher without guidance.

    Args:
        teacher: its network gets the adapters, which it computes without.
        seed: of the adapters' first weights.

    Raises:
        UserError: peft is not installed; patterns match no layer.

    Source: ProlificDreamer, arXiv 2305.16213, sections 3.2 and 4.
    """

    def __init__(self, teacher: NetworkDenoiser, options: VSDOptions, seed: int) -> None:
        super().__init__()
        self.options = options
        self.shared = SharedNetwork(teacher.network, options.adapters, (ADAPTER,), seed, "sds.vsd.adapters")
        if options.gradient_checkpointing:
            self.shared.enable_gradient_checkpointing()
        self.denoiser = NetworkDenoiser(self.shared.view(ADAPTER), teacher.precondition)

    @property
    def weights(self) -> list[Parameter]:
        """The adapters'."""
        return self.shared.parameters(ADAPTER)

    def sampler(self, levels: TimestepRange) -> NoiseLevelSampler:
        """Of its own draws: the timesteps of the step, all alike."""
        return _uniform(levels.count, self.options.strategy)

    def losses(
        self, x: Tensor, draws: Draws, levels: TimestepRange, cond: Condition, pictured: bool
    ) -> Iterator[Tensor]:
        """Parts of the loss, of which each may go through its own backward; their sum is

            1/R Σ_r 1/K Σ_k ω_rk ‖F(x_rk) − F*‖²,

        F the network's output, ε or v as the teacher has it, and F* what it would be if it knew x. Sums over
        entries, not means: the gradients of half-precision weights would underflow, and Adam's steps are the
        same.

        Args:
            x: renders [R, …]; without a graph to the scene.
            cond: of each of them.
            pictured: x is (colours, opacity), and each draw has a picture of it (:mod:`..composition`).
        """
        renders, count = draws.u.shape
        index = torch.arange(renders, device=x.device)
        index = index.repeat_interleave(count, output_size=renders * count)
        u, weight, eps = draws.u.flatten(), draws.weight.flatten(), draws.eps.flatten(0, 1)
        size = self.options.chunk
        for i in (slice(start, start + size) for start in range(0, len(index), size)):
            rows, noise = x.detach()[index[i]], eps[i]
            if pictured:
                rows, noise = compose(rows, noise[:, 3:]).image, noise[:, :3]
            with own_precision(self.shared.network, rows):
                sigma = levels.sigma(u[i])
                loss = denoising_losses(self.denoiser, rows, sigma, noise, cond[index[i]])
            yield (weight[i] * loss).sum() * (rows[0].numel() / len(index))


class VariationalScore(GuidedDenoiser):
    """What takes the place of ε̂ in the residual w(t) (ε̂ − c ε), here with c = 0:

        ε̂(x_t, t, y) under guidance − ε̂_fake(x_t, t, y),

    the difference of two scores, in which nothing common to the two networks cancels. Three predictions for a
    draw, of which the fake one has no guidance.

    Source: ProlificDreamer, arXiv 2305.16213, equation 9.
    """

    def __init__(self, guided: GuidedDenoiser, fake: NetworkDenoiser) -> None:
        super().__init__(guided, guided.scale, guided.null.value)
        self.guided, self.fake = guided, fake

    def at_scale(self, scale: float) -> VariationalScore:
        return VariationalScore(self.guided.at_scale(scale), self.fake)

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """The term at x_t = x + σ ε; arguments and shape as of every denoiser."""
        c = self.coefficients(x, sigma)
        y = c.noised(x, eps)
        return c.eps_out * (self.guided.raw(y, c, cond) - self.fake.raw(y, c, cond))
