"""TRAK's model output for a diffusion model: the denoising loss over K draws that all samples share.

traker = TRAKer(model, DenoisingOutput(losses, draws), train_set_size=n, projector=SketchProjector(2048))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from trak.modelout_functions import AbstractModelOutput
from trak.projectors import AbstractProjector
from trak.utils import vectorize

from carv_distill.carv import Draws
from carv_distill.variance import CountSketch

Losses = Callable[..., Tensor]
"""losses(network, x [K, …], u [K], eps [K, …], *conditions [K, …]) → [K], the denoising loss of each draw;
`network(...)` is the model at the weights in question."""


class DenoisingOutput(AbstractModelOutput):
    """f(x; φ) = 1/K Σ_k ω_k ℓ(φ; x, u_k, ε_k): the loss itself, so Q = 1. Nothing random is left inside.

    Args:
        losses: of K draws, see :data:`Losses`.
        draws: of one upstream sample, for all: u and weight [1, K], eps [1, K, …].
    """

    def __init__(self, losses: Losses, draws: Draws) -> None:
        self.losses, self.draws = losses, draws.row(0)

    def get_output(
        self, model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], *sample: Tensor
    ) -> Tensor:
        """f of one sample, x and conditions without the row axis."""
        d = self.draws
        x, *conditions = (part.expand(len(d.u), *part.shape) for part in sample)

        def network(*inputs: Any) -> Any:
            return functional_call(model, (weights, buffers), inputs)

        return (d.weight * self.losses(network, x, d.u, d.eps, *conditions)).mean()

    def get_out_to_loss_grad(
        self, model: nn.Module, weights: Any, buffers: Any, batch: Sequence[Tensor]
    ) -> Tensor:
        """∂loss/∂f = 1 of each sample, [n, 1]."""
        return torch.ones(len(batch[0]), 1, device=batch[0].device)


class SketchProjector(AbstractProjector):
    """This project's projection as one of TRAK's: time O(n d) whatever m, on a CPU as on a GPU, in place of
    BasicProjector's O(n d m).

    Args:
        proj_dim: m.
        seed: with the number of the checkpoint, names the projection.
    """

    def __init__(self, proj_dim: int, seed: int = 0, device: str | torch.device = "cpu") -> None:
        super().__init__(0, proj_dim, seed, "countsketch", device)

    def project(self, grads: Tensor | dict[str, Tensor], model_id: int) -> Tensor:
        """Gradients [n, d], or by parameter, → [n, m]."""
        flat = vectorize(grads, device=self.device) if isinstance(grads, dict) else grads
        return CountSketch(self.proj_dim, 1000 * self.seed + model_id)(flat)
