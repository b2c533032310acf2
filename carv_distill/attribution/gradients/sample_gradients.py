"""Features of samples, projected parameter gradients of the denoising loss, for draws (u, ε) that all samples
share; whichever back end makes the gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws
from carv_distill.carv.estimator import Residual
from carv_distill.errors import UserError
from carv_distill.variance import Pipeline

from .loss import SampleLoss
from .projection import Projector, Sum, SumWithNorm

Begin = Callable[[int], Sum]
"""So many gradients → an empty sum."""


class SampleGradients(Protocol):
    """ḡ(x) = ∇φ L(φ; x, c) of each sample, L = 1/K Σ_k ω_k ℓ the loss :class:`SampleLoss`, handed to a
    projection parameter by parameter; with none, joined in the order of the loss's parameters.

    The draws are arguments of the loss, the same for every sample: what two samples' gradients have in common
    by their draws is then common, and nothing random is left inside. A call leaves the network as it was.

    Source: arXiv 2303.14186 (TRAK), section 3; arXiv 2605.21489, section 5.
    """

    loss: SampleLoss
    chunk_of: ClassVar[Literal["samples", "draws"]]
    """What a call works through `chunk` of at a time."""

    def __call__(
        self, batch: SampleBatch, draws: Draws, begin: Begin | None = None, chunk: int | None = None
    ) -> Tensor:
        """ḡ of each sample, projected to [n, m], or [n, d].

        Args:
            draws: of u, weight [K] and eps [K, …], shared by the samples.
            begin: the projection.
            chunk: samples at a time, or draws of one at a time, as `chunk_of` says; all by default.
        """
        ...

    def of_draws(
        self,
        batch: SampleBatch,
        u: Tensor,
        eps: Tensor,
        begin: Begin | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """∇φ ℓ(φ; x_i, c_i, u_i, ε_i) of single draws, each at a sample of its own, [n, m] or [n, d].

        Args:
            u, eps: [n], [n, …].
            begin, chunk: as above.
        """
        ...


def sample_features(
    gradients: SampleGradients,
    projector: Projector,
    batch: SampleBatch,
    draws: Draws,
    chunk: int | None = None,
    normalise_draws: bool = False,
    model_id: int = 0,
    first: int = 0,
) -> Tensor:
    """Projected gradients of each sample over each of G groups of draws, [n, G, m], float32.

    Args:
        batch, chunk: see :class:`SampleGradients`.
        draws: R is G: one row for each group; u [G, K/G], eps [G, K/G, …].
        normalise_draws: average g/‖g‖ of each draw instead of g.
        model_id: names the projection, for several checkpoints.
        first: number of the first sample, for what is said of one.

    Raises:
        UserError: a draw's gradient is zero and was to be normalised.
    """

    def begin(rows: int) -> Sum:
        return projector.begin(gradients.loss.layout, rows, model_id)

    groups = []
    for number in range(len(draws.u)):
        group = draws.row(number)
        if normalise_draws:
            mean = _mean_of_directions(gradients, begin, batch, group, chunk, first)
        else:
            mean = gradients(batch, group, begin, chunk)
        groups.append(mean.float())
    return torch.stack(groups, 1)


def _mean_of_directions(
    gradients: SampleGradients,
    begin: Begin,
    batch: SampleBatch,
    draws: Draws,
    chunk: int | None,
    first: int,
) -> Tensor:
    """1/K Σ_k ω_k S g_k/‖g_k‖, [n, m]."""
    mean: Tensor | float = 0.0
    for k in range(len(draws.u)):
        one = replace(draws[k : k + 1], weight=torch.ones_like(draws.weight[:1]))
        found = gradients(batch, one, lambda rows: SumWithNorm(begin(rows)), chunk)
        mean = mean + _directions(found, lambda row: first + row) * (draws.weight[k] / len(draws.u))
    assert isinstance(mean, Tensor)
    return mean


def _directions(found: Tensor, number_of: Callable[[int], int]) -> Tensor:
    """S g/‖g‖, [n, m], from features with their norms.

    Args:
        number_of: row → the sample's number, for what is said of it.
    """
    features, norm = found[:, :-1], found[:, -1:]
    if not norm.all():
        raise UserError(
            f"sample {number_of(int((norm == 0).nonzero()[0, 0]))}: a draw's gradient is zero and cannot be "
            "normalised (allowed: --normalise mean)"
        )
    return features / norm


def attribution_pipeline(
    gradients: SampleGradients,
    projector: Projector,
    batch: SampleBatch,
    chunk: int | None = None,
    numbers: Tensor | None = None,
    normalise_draws: bool = False,
) -> Pipeline:
    """Attribution as what :mod:`carv_distill.variance` measures: the upstream draw is a training sample; the
    residual of a draw is its parameter gradient, projected to [n, m]; there are no parameters behind it.

    Samples are picked with replacement, as independent upstream draws are: the variance between them is then
    that over the batch. Out of a batch of hardly more than are picked some come twice; to take each once,
    make a pipeline of each, ``batch[i : i + 1]``.

    Args:
        projector: keeps squared norms in expectation; all variances are of what it makes.
        batch: the training set, or some of it.
        chunk: draws whose gradients are held at a time, where a back end holds several.
        numbers: of these samples in the training set, for what is said of one; 0 … n−1 by default.
        normalise_draws: the residual is g/‖g‖ instead of g.

    Its residual raises:
        UserError: a gradient is not finite, or zero and was to be normalised, with the number of the training
            sample.
    """
    layout = gradients.loss.layout

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        pick = torch.randint(len(batch), (count,), generator=generator, device=generator.device)
        some = batch[pick.to(batch.x.device)].to(layout.device, layout.dtype)

        def begin(rows: int) -> Sum:
            own = projector.begin(layout, rows)
            return SumWithNorm(own) if normalise_draws else own

        def number_of(sample: Tensor) -> int:
            place = int(pick[int(sample)])
            return place if numbers is None else int(numbers[place])

        def residual(x_flat: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            features = gradients.of_draws(replace(some[index], x=x_flat), u, eps, begin, chunk)
            # what is not finite in a gradient is in no sum of it either
            if not (finite := features.isfinite().all(1)).all():
                number = number_of(index[~finite][0])
                raise UserError(f"training sample {number}: its gradient holds NaN or infinity")
            return _directions(features, lambda row: number_of(index[row])) if normalise_draws else features

        return some.x, residual

    return pipeline
