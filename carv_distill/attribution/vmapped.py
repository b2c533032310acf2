"""Gradients of many samples at once, by `torch.func`: for networks small enough to be held several times."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.schedule import NoiseSchedule

from .attention import PlainAttention
from .gradients import Begin
from .loss import SampleLoss
from .projection import JoinedSum


class VmapGradients:
    """``vmap(grad(L))`` over the samples, with attention by plain products.

    The K draws of a sample are one batch of one backward, so no draw's own gradient is ever stored. Memory:
    `chunk` samples' gradients, and the network's activations for chunk · K rows.

    Args: see :class:`SampleLoss`. `chunk` of a call: samples at a time.

    Raises:
        UserError: no parameter of the network matches, or a pattern matches none.
    """

    chunk_of: ClassVar[Literal["samples", "draws"]] = "samples"

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        schedule: NoiseSchedule,
        patterns: Sequence[str] = ("*",),
        precision: str = "fp32",
    ) -> None:
        self.loss = SampleLoss(denoiser, schedule, patterns, precision)

    def __call__(
        self,
        x: Tensor,
        cond: Cond,
        u: Tensor,
        weight: Tensor,
        eps: Tensor,
        begin: Begin | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """See :class:`SampleGradients`."""
        return self._by_sample(x, cond, (u, weight, eps), None, begin, chunk)

    def of_draws(
        self,
        x: Tensor,
        cond: Cond,
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
            return self._by_sample(x, cond, (u, torch.ones_like(u), eps), 0, begin, chunk)

    def _by_sample(
        self,
        x: Tensor,
        cond: Cond,
        draws: tuple[Tensor, Tensor, Tensor],
        draws_at: int | None,
        begin: Begin | None,
        chunk: int | None,
    ) -> Tensor:
        """`draws_at`: the samples' dimension in u, weight and eps, None of shared ones."""
        in_dims = (None, 0, None if cond is None else 0, draws_at, draws_at, draws_at)
        gradient: Any = vmap(grad(self._value), in_dims=in_dims)
        parameters = {f"denoiser.network.{name}": p.detach() for name, p in self.loss.chosen.items()}
        rows = []
        for start in range(0, len(x), chunk or len(x)):
            part = slice(start, start + (chunk or len(x)))
            some = draws if draws_at is None else tuple(t[part] for t in draws)
            with PlainAttention(), self.loss.autocast():
                found = gradient(parameters, x[part], None if cond is None else cond[part], *some)
            count = len(x[part])
            total = JoinedSum(self.loss.layout, count) if begin is None else begin(count)
            for name in self.loss.chosen:
                total.add(name, found.pop(f"denoiser.network.{name}").reshape(count, -1))
            rows.append(total.features())
        return torch.cat(rows)

    def _value(self, parameters: dict[str, Tensor], *arguments: Any) -> Tensor:
        value = functional_call(self.loss, parameters, arguments)
        assert isinstance(value, Tensor)
        return value
