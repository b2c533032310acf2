"""The hierarchical estimator: R upstream samples × K draws, averaged in x-space, one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .chunk import Chunk
from .sampler import Draws

Residual = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""residual(x_flat [n, …], u_flat [n], eps_flat [n, …], index [n]) → [n, …]; `index` names the upstream
sample of each row (to look up labels or prompts). It has the shape of x wherever it is pulled back to
parameters."""

Observer = Callable[[Tensor, Tensor, Tensor], None]
"""observe(u_flat [n], residual [n, …], index [n]): told of draws after they were made."""


class FiniteDraws:
    """Leaves draws that are not finite out of the average over draws, and counts; see
    :func:`average_residual`. Nothing waits for the device."""

    def __init__(self) -> None:
        self.total = 0
        """Draws since the last :meth:`take`."""
        self.finite = torch.zeros((), dtype=torch.long)

    def add(self, finite: Tensor) -> None:
        """Counts draws by whether each is finite, bool of any shape."""
        self.total += finite.numel()
        self.finite = self.finite.to(finite.device, non_blocking=True) + finite.sum()

    def take(self) -> tuple[int, Tensor]:
        """(draws, how many of them were finite, a scalar on their device); the count begins again."""
        result = self.total, self.finite
        self.total, self.finite = 0, torch.zeros_like(self.finite)
        return result


class Upstream(NamedTuple):
    """One forward of a pipeline, R upstream samples, and what its objective adds to the residual."""

    x: Tensor
    """[R, …], with its graph to the parameters."""
    residual: Residual
    push: Callable[[torch.Generator], Tensor] | None = None
    """What is added to the direction beside the residual, [R, …], as by a discriminator: one draw for each
    upstream sample, from the stream of the upstream samples, as its variance is theirs."""
    penalty: Tensor | None = None
    """What is added to the surrogate, a scalar: regularisers, a mean over the R samples."""
    clip: Callable[[Tensor], Tensor] | None = None
    """What the averaged direction goes through, [R, …] → [R, …]."""
    noise: tuple[int, ...] | None = None
    """Shape of ε, all that is random in a draw beside its noise level, standard normal; None: that of one x.
    A residual that makes more than noise of it, a background say, has a larger one."""
    finite: FiniteDraws | None = None
    """Leaves draws that are not finite out of the average, and counts; None: one of them spoils it."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of one draw's ε."""
        return tuple(self.x.shape[1:]) if self.noise is None else self.noise


@torch.no_grad()
def average_residual(
    residual: Residual,
    x: Tensor,
    draws: Draws,
    chunk: int | Chunk | None = None,
    observe: Observer | None = None,
    finite: FiniteDraws | None = None,
) -> Tensor:
    """direction_r = 1/K Σ_k ω_rk · residual(x_r, u_rk, ε_rk), shape of a residual: [R, …].

    The networks inside `residual` are called without a gradient graph, on at most `chunk` rows at a time
    (a row is one (r, k)), so the networks' memory follows the chunk and not K; beside it stand the noises
    and as many weighted residuals. The order of the sum does not depend on the chunk.

    Args:
        residual: see :data:`Residual`.
        x: upstream samples, [R, …]; its graph, if it has one, is not touched.
        draws: K draws for each of the R samples.
        chunk: rows per call of `residual`; None is all R·K at once. A :class:`Chunk` remembers from call to
            call what did not fit the device's memory; where that runs out, half as many are tried.
        observe: is told of every draw once, and of its residual before the importance weight.
        finite: leaves draws that are not finite out, and counts; None: they are a part of the mean.

    Raises:
        ValueError: R of x and of the draws differ.

    Source: compute reuse, arXiv 2605.21489, section 3.
    """
    upstream, count = draws.u.shape
    if x.shape[0] != upstream:
        raise ValueError(f"x has {x.shape[0]} upstream samples, the draws have {upstream}")
    rows = upstream * count
    x = x.detach()
    u, weight, eps = draws.u.flatten(), draws.weight.flatten(), draws.eps.flatten(0, 1)
    index = torch.arange(upstream, device=x.device).repeat_interleave(count, output_size=rows)
    weighted: Tensor | None = None
    sound = None if finite is None else torch.ones(rows, dtype=torch.bool, device=x.device)

    def weigh(part: slice) -> None:
        nonlocal weighted
        i = index[part]
        r = residual(x[i], u[part], eps[part], i)
        if weighted is None:
            weighted = eps.new_empty(rows, *r.shape[1:])
        torch.mul(r, weight[part].view(-1, *[1] * (r.ndim - 1)), out=weighted[part])
        if sound is not None:
            sound[part] = weighted[part].flatten(1).isfinite().all(1)
            weighted[part].masked_fill_(~sound[part].view(-1, *[1] * (r.ndim - 1)), 0)
        if observe is not None:
            observe(u[part], r, i)

    chunk = chunk if isinstance(chunk, Chunk) else Chunk(chunk)
    chunk.run(rows, weigh)
    assert weighted is not None
    mean = weighted.view(upstream, count, *weighted.shape[1:]).mean(1)
    if finite is None or sound is None:
        return mean
    finite.add(sound)
    left = sound.view(upstream, count).sum(1).clamp(min=1).to(mean.dtype)
    return mean * (count / left).view(-1, *[1] * (mean.ndim - 1))  # by exactly 1 where all are finite


def surrogate(x: Tensor, direction: Tensor) -> Tensor:
    """1/R Σ_r ⟨x_r, stopgrad(direction_r)⟩, a scalar whose gradient is the CARV estimate.

    One backward of it equals the mean of the K separate backwards, as the residuals do not depend on the
    parameters through x. Its value means nothing: log the norm of the direction instead.
    """
    return (x * direction.detach()).sum() / x.shape[0]


def carv_loss(
    upstream: Upstream,
    draws: Draws,
    generator: torch.Generator,
    chunk: int | Chunk | None = None,
    observe: Observer | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, direction) of one estimate: the loss's gradient is what is descended,

        d_r = clip(1/K Σ_k ω_rk r(x_r, u_rk, ε_rk) + push_r),    loss = 1/R Σ_r ⟨x_r, d_r⟩ + penalty.

    Args:
        generator: of the push, the stream of the upstream samples.
        chunk, observe: as for :func:`average_residual`.
    """
    direction = average_residual(upstream.residual, upstream.x, draws, chunk, observe, upstream.finite)
    if upstream.push is not None:
        direction = direction + upstream.push(generator)
    if upstream.clip is not None:
        direction = upstream.clip(direction)
    loss = surrogate(upstream.x, direction)
    return loss if upstream.penalty is None else loss + upstream.penalty, direction
