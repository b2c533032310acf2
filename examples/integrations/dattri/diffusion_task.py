"""dattri's task for a diffusion model: gradients of the denoising loss over K draws that all samples share.

task = DiffusionTask(model, state_dict, losses, draws)
TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=True).attribute(train, queries)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from dattri.task import AttributionTask
from torch import Tensor, nn
from torch.func import functional_call

from carv_distill.carv import Draws
from carv_distill.variance import CountSketch

Losses = Callable[..., Tensor]
"""losses(network, x [K, …], u [K], eps [K, …], *conditions [K, …]) → [K], the denoising loss of each draw;
`network(...)` is the model at the parameters in question."""


def draw_loss(model: nn.Module, losses: Losses, draws: Draws) -> Callable[[dict[str, Tensor], Any], Tensor]:
    """L(φ; x) = 1/K Σ_k ω_k ℓ(φ; x, u_k, ε_k) as dattri calls it: parameters by name, and the tensors of one
    sample, x [...] and conditions, as a loader has them in rows. Nothing random is left inside.

    Args:
        draws: of one upstream sample, for all: u and weight [1, K], eps [1, K, …].
    """
    shared = draws.row(0)

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        x, *conditions = (part.expand(len(shared.u), *part.shape) for part in data)

        def network(*inputs: Any) -> Any:
            return functional_call(model, parameters, inputs)

        return (shared.weight * losses(network, x, shared.u, shared.eps, *conditions)).mean()

    return loss


class DiffusionTask(AttributionTask):
    """Training samples and queries by the same draws, or queries by `query_draws`, independent ones: then
    E⟨ḡ_q, ḡ_x⟩ = ⟨E g_q, E g_x⟩, without the tr Cov(g_q, g_x)/K that shared draws add.

    Args:
        model: as dattri's; its parameters that require a gradient are attributed by.
        checkpoints: as dattri's.
        losses: of K draws, see :data:`Losses`.
        draws, query_draws: see :func:`draw_loss`.
        sketch: a projection of this project; then tell dattri not to project again, by
            ``projector_kwargs={"proj_type": "identity"}``.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoints: Any,
        losses: Losses,
        draws: Draws,
        query_draws: Draws | None = None,
        sketch: CountSketch | None = None,
    ) -> None:
        query = draws if query_draws is None else query_draws
        super().__init__(draw_loss(model, losses, draws), model, checkpoints, draw_loss(model, losses, query))
        self.sketch = sketch

    def get_grad_loss_func(self, *args: Any, **kwargs: Any) -> Callable[..., Tensor]:
        """(flat parameters, batch) → gradients of training samples, [n, d], or sketched, [n, m]."""
        return self._sketched(super().get_grad_loss_func(*args, **kwargs))

    def get_grad_target_func(self, *args: Any, **kwargs: Any) -> Callable[..., Tensor]:
        """The same of queries."""
        return self._sketched(super().get_grad_target_func(*args, **kwargs))

    def _sketched(self, gradients: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if (sketch := self.sketch) is None:
            return gradients

        @torch.no_grad()
        def project(*inputs: Any) -> Tensor:
            return sketch(gradients(*inputs))

        return project
