"""The averages of a student: their decays, and those beside the first one as networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.nn import Parameter

from carv_distill.engine.optimisation import ramped
from carv_distill.teachers.adapters import whole_network
from carv_distill.teachers.network import RawNetwork

from .options import DMDOptions


def average_decays(options: DMDOptions, samples: int, step: int) -> list[float]:
    """Decays of the student's average and of those beside it at an update: as given, for the first one also
    ½^(batch/half-life) (Karras et al. 2022, appendix F.2); ramped if so configured.

    Args:
        samples: of the student in an update, over all shares.
    """
    decays = [options.ema, *options.ema_beside]
    if options.ema_half_life is not None:
        decays[0] = 0.5 ** (samples / (1000 * options.ema_half_life))
    return [ramped(decay, step) for decay in decays] if options.ema_ramp else decays


def networks_beside(
    network: RawNetwork, rows: Iterable[Tensor], decays: Iterable[float]
) -> Iterator[tuple[str, RawNetwork]]:
    """The averages beside the student's first one, rows [d], one network at a time, by their decay: to be
    written, with the numbers of the row on the CPU and all else, as what adapters lie over, the network's."""
    parameters, whole = list(network.parameters()), whole_network(network)
    others = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
    for row, decay in zip(rows, decays, strict=True):
        parts = row.to("cpu", copy=True).split([p.numel() for p in parameters])
        own = {
            id(p): Parameter(part.view_as(p), p.requires_grad)
            for p, part in zip(parameters, parts, strict=True)
        }
        yield f"{decay:g}", copy.deepcopy(network, others | own)
