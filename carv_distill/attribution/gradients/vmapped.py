"""Gradients of many samples at once, by `torch.func`: for networks small enough to be held several times."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws

from .attention import PlainAttention
from .loss import SampleLoss
from .projection import JoinedSum
from .sample_gradients import Begin


class VmapGradients:
    """``vmap(grad(L))`` over the samples, with attention by plain products.

    The K draws of a sample are one batch of one backward, so no draw's own gradient is ever stored. Memory:
    `chunk` samples' gradients, and the network's activations for chunk · K rows.

    Args:
        loss: what is differentiated, and by which parameters.

    `chunk` of a call: samples at a time.
    """

    chunk_of: ClassVar[Literal["samples", "draws"]] = "samples"

    def __init__(self, loss: SampleLoss) -> None:
        self.loss = loss

    def __call__(
        self, batch: SampleBatch, draws: Draws, begin: Begin | None = None, chunk: int | None = None
    ) -> Tensor:
        """See :class:`SampleGradients`."""
        return self._by_sample(batch, draws, None, begin, chunk)

    def of_draws(
        self,
        batch: SampleBatch,
        u: Tensor,
        eps: Tensor,
        begin: Begin | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """See :class:`SampleGradients`."""
        u, eps = u[:, None], eps[:, None]
        with warnings.catch_warnings():
            # of looking levels up in a table, which costs nothing beside the network
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return self._by_sample(batch, Draws(u, torch.ones_like(u), eps), 0, begin, chunk)

    def _by_sample(
        self, batch: SampleBatch, draws: Draws, draws_at: int | None, begin: Begin | None, chunk: int | None
    ) -> Tensor:
        """`draws_at`: the samples' dimension in u, weight and eps, None of shared ones."""
        sample_at = (0, None if batch.cond is None else 0, None if batch.weight is None else 0)
        gradient: Any = vmap(grad(self._value), in_dims=(None, *sample_at, *[draws_at] * 3))
        parameters = {f"denoiser.network.{name}": p.detach() for name, p in self.loss.chosen.items()}
        rows, size = [], chunk or len(batch)
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            some, own = batch[part], draws if draws_at is None else draws[part]
            with PlainAttention(), self.loss.autocast():
                found = gradient(parameters, some.x, some.cond, some.weight, own.u, own.weight, own.eps)
            total = JoinedSum(self.loss.layout, len(some)) if begin is None else begin(len(some))
            for name in self.loss.chosen:
                total.add(name, found.pop(f"denoiser.network.{name}").reshape(len(some), -1))
            rows.append(total.features())
        return torch.cat(rows)

    def _value(self, parameters: dict[str, Tensor], *arguments: Any) -> Tensor:
        *sample, u, weight, eps = arguments
        value = functional_call(self.loss, parameters, (*sample, Draws(u, weight, eps)))
        assert isinstance(value, Tensor)
        return value
