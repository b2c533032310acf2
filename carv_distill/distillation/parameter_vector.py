"""A network's parameters as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class ParameterVector:
    """θ ∈ ℝ^d: the parameters of a network moved into one tensor, of which they become views.

    An optimiser of ``theta`` updates the network in place. It costs one operation where a hundred small
    parameters cost a hundred, and processes average one gradient instead of gathering many.

    The views last until the network moves to another device or type; a vector is made after that.

    Args:
        parameters: of one network, on one device, of one type; their order is the vector's.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parts = list(parameters)
        self.theta = Parameter(torch.cat([p.detach().flatten() for p in self.parts]))
        sizes = [p.numel() for p in self.parts]
        for p, view in zip(self.parts, self.theta.detach().split(sizes), strict=True):
            p.data = view.view_as(p)

    def collect_gradient(self) -> Tensor:
        """Moves the parameters' gradients, as a backward left them, into ``theta.grad`` [d]; returns it.

        A parameter that the backward did not reach counts as gradient zero.
        """
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in self.parts]
        for p in self.parts:
            p.grad = None
        if self.theta.grad is None:
            self.theta.grad = torch.empty_like(self.theta)
        return torch.cat(parts, out=self.theta.grad)
