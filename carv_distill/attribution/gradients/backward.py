"""Gradients of one sample after another, by plain backward(): for networks of any size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws
from carv_distill.teachers.condition import Cond

from .hooks import arriving_gradients, checkpointable, checkpointed, nothing_random
from .loss import SampleLoss
from .projection import JoinedSum, Sum
from .sample_gradients import Begin

Term = tuple[float, Tensor, Cond, Tensor | None, Draws]
"""A share, and the arguments of the loss that it is a share of."""


class BackwardGradients:
    """One backward() for each sample, or for each `chunk` of its K draws, with the network's own attention.

    Each parameter's gradient goes to the projection as it arrives and is freed before the next one comes: the
    whole gradient is never alive. Memory: the gradients of one layer, and the network's activations for
    `chunk` rows, or with checkpointing what lies between blocks and the inside of one.

    Args:
        loss: what is differentiated, and by which parameters.
        checkpointing: activations inside blocks are computed again instead of kept.

    `chunk` of a call: draws of a sample at a time.

    Raises:
        UserError: no block of the network can be checkpointed.
        ValueError: by a call: the network draws random numbers of its own.
    """

    chunk_of: ClassVar[Literal["samples", "draws"]] = "draws"

    def __init__(self, loss: SampleLoss, checkpointing: bool = False) -> None:
        self.loss = loss
        self._checkpointed = checkpointable(loss.denoiser.network) if checkpointing else []

    def __call__(
        self, batch: SampleBatch, draws: Draws, begin: Begin | None = None, chunk: int | None = None
    ) -> Tensor:
        """See :class:`SampleGradients`."""
        count = len(draws.u)
        size = chunk or count
        parts = [draws[start : start + size] for start in range(0, count, size)]

        def terms(i: int) -> list[Term]:
            return [(len(part.u) / count, *batch.sample(i), part) for part in parts]

        return self._rows(map(terms, range(len(batch))), begin)

    def of_draws(
        self,
        batch: SampleBatch,
        u: Tensor,
        eps: Tensor,
        begin: Begin | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """See :class:`SampleGradients`; one draw at a time, whatever the chunk."""
        one = torch.ones_like(u[:1])
        each = range(len(batch))
        return self._rows(
            ([(1.0, *batch.sample(i), Draws(u[i : i + 1], one, eps[i : i + 1]))] for i in each), begin
        )

    def _rows(self, samples: Iterable[Sequence[Term]], begin: Begin | None) -> Tensor:
        """A row of features for each sample, of the sum of its terms."""
        loss, layout = self.loss, self.loss.layout
        total: Sum

        def receive(name: str, gradient: Tensor) -> None:
            total.add(name, gradient.reshape(1, -1))

        rows = []
        with (
            torch.enable_grad(),
            nothing_random(layout.device),
            checkpointed(self._checkpointed),
            arriving_gradients(loss.denoiser.network, loss.chosen, receive),
        ):
            for terms in samples:
                total = JoinedSum(layout, 1) if begin is None else begin(1)
                for share, *arguments in terms:
                    with loss.autocast():
                        value = share * loss(*arguments)
                    if value.requires_grad:  # nothing does of parameters that play no part
                        value.backward()
                rows.append(total.features())
        return torch.cat(rows)
