"""The face of a pipeline whose gradient is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from carv_distill.carv import (
    Chunk,
    Draws,
    FiniteDraws,
    NoiseLevelSampler,
    Residual,
    Upstream,
    average_residual,
    carv_loss,
    surrogate,
)

Pipeline = Callable[[int, torch.Generator], Upstream | tuple[Tensor, Residual]]
"""pipeline(R, generator) → R upstream samples x [R, …] with their graph to the parameters, the residual of
these samples, and what the objective adds, if anything.

In data attribution a draw is a parameter gradient already: there the residual gives it, [n, d], J is the
identity, nothing is added, and the measures are called with no parameters."""


def sample_upstream(pipeline: Pipeline, count: int, generator: torch.Generator) -> Upstream:
    """R upstream samples."""
    return Upstream(*pipeline(count, generator))


def flat_gradient(
    output: Tensor,
    parameters: Sequence[Tensor],
    direction: Tensor | None = None,
    keep: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """J(x)ᵀ direction, or the gradient of a scalar, as one vector [d]; zero where a parameter is not reached;
    `.grad` is untouched.

    Args:
        output: x, [R, …], or a scalar, with a graph.
        parameters: what to differentiate by; a part of a large network's is allowed.
        direction: of x, same shape, no graph.
        keep: whether the graph is needed again.
        out: where to write it, [d]; a new tensor if None.
    """
    gradients = torch.autograd.grad(
        output, parameters, direction, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients], out=out)


def estimate_loss(
    pipeline: Pipeline,
    sampler: NoiseLevelSampler,
    upstream: int,
    draws: int,
    upstream_generator: torch.Generator,
    draws_generator: torch.Generator,
    chunk: int | Chunk | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    shared: torch.Generator | None = None,
) -> Tensor:
    """The scalar whose gradient is one CARV estimate from R upstream samples × K draws.

    Args:
        upstream_generator, draws_generator: two streams, so that one can be held fixed.
        chunk: see :func:`average_residual`.
        rank, world_size, shared: see :meth:`NoiseLevelSampler.draw`.
    """
    sample = sample_upstream(pipeline, upstream, upstream_generator)
    drawn = _draw(sampler, sample, draws, draws_generator, rank, world_size, shared)
    return carv_loss(sample, drawn, upstream_generator, chunk)[0]


def _draw(
    sampler: NoiseLevelSampler,
    sample: Upstream,
    draws: int,
    generator: torch.Generator,
    rank: int,
    world_size: int,
    shared: torch.Generator | None,
) -> Draws:
    """K draws for each of R upstream samples."""
    x = sample.x
    return sampler.draw(len(x), draws, sample.noise_shape, generator, rank, world_size, shared, x.dtype)


def estimate_gradient(
    pipeline: Pipeline,
    parameters: Sequence[Tensor],
    sampler: NoiseLevelSampler,
    upstream: int,
    draws: int,
    upstream_generator: torch.Generator,
    draws_generator: torch.Generator,
    chunk: int | Chunk | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    shared: torch.Generator | None = None,
) -> Tensor:
    """One CARV estimate of the parameter gradient, [d]; arguments as of :func:`estimate_loss`."""
    if parameters:
        estimate = partial(estimate_loss, rank=rank, world_size=world_size, shared=shared)
        loss = estimate(pipeline, sampler, upstream, draws, upstream_generator, draws_generator, chunk)
        return flat_gradient(loss, parameters)
    sample = sample_upstream(pipeline, upstream, upstream_generator)
    drawn = _draw(sampler, sample, draws, draws_generator, rank, world_size, shared)
    return (average_residual(sample.residual, sample.x, drawn, chunk) / upstream).sum(0).flatten()


@torch.no_grad()
def sample_residuals(
    sample: Upstream, u: Tensor, weight: Tensor, eps: Tensor, chunk: int | Chunk | None = None
) -> Tensor:
    """ω_i · r(x, u_i, ε_i) of n draws at one upstream sample, [n, …].

    Where the pipeline leaves draws that are not finite out of its averages, each of them counts as the mean
    of the others here.

    Args:
        sample: x is [1, …].
        u, weight: [n].
        eps: [n, …].
        chunk: rows per call of the residual; None is all n at once.
    """
    chunk = chunk if isinstance(chunk, Chunk) else Chunk(chunk)

    def weighed(part: slice) -> Tensor:
        index = torch.zeros(len(u[part]), dtype=torch.long, device=u.device)
        x = sample.x.detach().expand(len(index), *sample.x.shape[1:])
        r = sample.residual(x, u[part], eps[part], index)
        return r * weight[part].view(-1, *[1] * (r.ndim - 1))

    rows = torch.cat(chunk.run(len(u), weighed))
    return rows if sample.finite is None else _without(rows, sample.finite)


def _without(rows: Tensor, finite: FiniteDraws) -> Tensor:
    """Rows that are not finite exchanged for the mean of the others, and counted."""
    sound = rows.flatten(1).isfinite().all(1)
    finite.add(sound)
    each = sound.view(-1, *[1] * (rows.ndim - 1))
    mean = rows.masked_fill(~each, 0).sum(0) / sound.sum().clamp(min=1)
    return torch.where(each, rows, mean)


def row_gradients(
    x: Tensor, directions: Tensor, parameters: Sequence[Tensor], out: Tensor | None = None
) -> Iterator[Tensor]:
    """J(x)ᵀ d_i of each direction [n, …] at one upstream sample x [1, …], through one graph; without
    parameters the directions themselves.

    The graph is freed at the end. With `out`, [d], each gradient is written over the one before it.
    """
    for i, direction in enumerate(directions):
        if parameters:
            yield flat_gradient(x, parameters, direction[None], i + 1 < len(directions), out)
        else:
            yield direction.flatten()


def constant_gradient(
    sample: Upstream, generator: torch.Generator, parameters: Sequence[Tensor]
) -> Tensor | None:
    """J(x)ᵀ push + ∇penalty, [d]: what an upstream sample adds to the gradient whatever its draws; None where
    that is nothing. The graph is kept."""
    if sample.push is None and sample.penalty is None:
        return None
    loss = surrogate(sample.x, sample.push(generator) if sample.push else torch.zeros_like(sample.x))
    return flat_gradient(loss if sample.penalty is None else loss + sample.penalty, parameters, keep=True)
