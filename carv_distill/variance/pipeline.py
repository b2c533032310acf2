"""The face of a pipeline whose gradient is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from carv_distill.carv import Chunk, NoiseLevelSampler, average_residual
from carv_distill.carv.estimator import Residual

Pipeline = Callable[[int, torch.Generator], tuple[Tensor, Residual]]
"""pipeline(R, generator) → (x [R, …] with its graph to the parameters, the residual of these samples).
A residual that looks nothing up by sample (no labels, no prompts) is the same at every call.

In data attribution a draw is a parameter gradient already: there the residual gives it, [n, d], J is the
identity, and the measures are called with no parameters."""


def under(pipeline: Pipeline, context: Callable[[], AbstractContextManager[None]]) -> Pipeline:
    """The pipeline with its forward passes and residuals under a context, as the autocast of a training."""

    def inside(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        with context():
            x, residual = pipeline(count, generator)

        def residual_inside(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            with context():
                return residual(x, u, eps, index)

        return x, residual_inside

    return inside


def flat_gradient(
    output: Tensor,
    direction: Tensor,
    parameters: Sequence[Tensor],
    keep: bool,
    out: Tensor | None = None,
) -> Tensor:
    """J(x)ᵀ direction as one vector [d]; zero where a parameter is not reached; `.grad` is untouched.

    Args:
        output: x, [R, …], with a graph.
        direction: same shape, no graph.
        parameters: what to differentiate by; a part of a large network's is allowed. Where there are none,
            the directions are gradients themselves, and their sum over R is what is returned.
        keep: whether the graph is needed again.
        out: where to write it, [d]; a new tensor if None.
    """
    if not parameters:
        return direction.sum(0).flatten()
    gradients = torch.autograd.grad(
        output, parameters, direction, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients], out=out)


def estimate_gradient(
    pipeline: Pipeline,
    parameters: Sequence[Tensor],
    sampler: NoiseLevelSampler,
    upstream: int,
    draws: int,
    upstream_generator: torch.Generator,
    draws_generator: torch.Generator,
    chunk: int | None = None,
) -> Tensor:
    """One CARV estimate of the parameter gradient from R upstream samples × K draws, [d].

    Args:
        upstream_generator, draws_generator: two streams, so that one can be held fixed.
        chunk: see :func:`average_residual`.
    """
    x, residual = pipeline(upstream, upstream_generator)
    drawn = sampler.draw(upstream, draws, x.shape[1:], draws_generator, dtype=x.dtype)
    direction = average_residual(residual, x, drawn, chunk)
    return flat_gradient(x, direction / upstream, parameters, keep=False)


@torch.no_grad()
def sample_residuals(
    residual: Residual, x: Tensor, u: Tensor, weight: Tensor, eps: Tensor, chunk: int | None = None
) -> Tensor:
    """ω_i · r(x, u_i, ε_i) of n draws at one upstream sample, [n, …].

    Args:
        x: one upstream sample, [1, …].
        u, weight: [n].
        eps: [n, …].
        chunk: rows per call of `residual`; None is all n at once.

    Raises:
        ValueError: chunk is below 1.
    """

    def weighed(part: slice) -> Tensor:
        index = torch.zeros(len(u[part]), dtype=torch.long, device=x.device)
        r = residual(x.detach().expand_as(eps[part]), u[part], eps[part], index)
        return r * weight[part].view(-1, *[1] * (r.ndim - 1))

    return torch.cat(Chunk(chunk).run(len(u), weighed))


def row_gradients(
    x: Tensor, directions: Tensor, parameters: Sequence[Tensor], out: Tensor | None = None
) -> Iterator[Tensor]:
    """J(x)ᵀ d_i of each direction [n, …] at one upstream sample x [1, …], through one graph.

    The graph is freed at the end. With `out`, [d], each gradient is written over the one before it.
    """
    for i in range(len(directions)):
        yield flat_gradient(x, directions[i : i + 1], parameters, i + 1 < len(directions), out)
