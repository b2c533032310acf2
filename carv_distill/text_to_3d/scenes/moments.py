"""Moments of an optimiser that follow the rows of its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def carry_moments(
    optimizer: Optimizer, before: Mapping[str, Parameter], after: Mapping[str, Parameter], origin: Tensor
) -> None:
    """Puts parameters in the place of others of the same names, whose rows are partly the same.

    Args:
        origin: the row that each row of the new parameters had, −1 for new ones, whose moments are zero, [M].
    """
    named = {id(p): name for name, p in before.items()}
    known, row = origin >= 0, origin.clamp(min=0)
    for parameters in (group["params"] for group in optimizer.param_groups):
        for i, p in enumerate(parameters):
            if (name := named.get(id(p))) is None:
                continue
            parameters[i] = after[name]
            if (state := optimizer.state.pop(p, None)) is not None:
                optimizer.state[after[name]] = {
                    key: _rows(value, row, known) if value.shape == p.shape else value
                    for key, value in state.items()
                }


def zero_moments(optimizer: Optimizer, parameter: Parameter) -> None:
    """Forgets those of one parameter; its number of steps stays."""
    for value in optimizer.state.get(parameter, {}).values():
        if value.shape == parameter.shape:
            value.zero_()


def _rows(moment: Tensor, row: Tensor, known: Tensor) -> Tensor:
    return torch.where(known.view(-1, *[1] * (moment.ndim - 1)), moment[row], 0)
