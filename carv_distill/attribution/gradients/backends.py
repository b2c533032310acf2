"""Which back end makes the gradients, and in which precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from carv_distill.attribution.options import AUTO, InfluenceOptions
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.schedule import NoiseSchedule

from .backward import BackwardGradients
from .loss import SampleLoss
from .sample_gradients import SampleGradients
from .vmapped import VmapGradients

POSITIONS, PARAMETERS = 512, 1 << 22
"""Of a sample and of a network, up to which vmap is used: see :func:`suits_vmap`."""


def build_gradients(
    o: InfluenceOptions,
    denoiser: NetworkDenoiser,
    schedule: NoiseSchedule,
    shape: Sequence[int],
    device: str,
) -> SampleGradients:
    """The gradients that options ask for; under bf16-true the network's weights are cast, for good.

    Args:
        shape: of a sample.
        device: where the network is.

    Raises:
        UserError: a pattern of parameters matches none; the network cannot be checkpointed, or cast.
    """
    checkpointing = o.gradient_checkpointing or o.offload
    by_vmap = o.backend == "vmap" or (o.backend == AUTO and not checkpointing and suits_vmap(denoiser, shape))
    precision = precision_on(device, o.precision, by_vmap, denoiser)
    if precision == "bf16-true":
        if not isinstance(denoiser.network, PromptNetwork):
            raise UserError("--precision: bf16-true is for networks that prompts condition; bf16 is for all")
        denoiser.network.cast(torch.bfloat16)
    loss = SampleLoss(denoiser, schedule, o.parameters, precision, o.output, device if o.offload else None)
    return VmapGradients(loss) if by_vmap else BackwardGradients(loss, checkpointing)


def suits_vmap(denoiser: NetworkDenoiser, shape: Sequence[int]) -> bool:
    """Whether network and samples are so small that what a call costs beside its arithmetic counts: then many
    samples in one call are worth their memory.

    Positions (frames · height · width of what is denoised) ≤ 512 and parameters ≤ 2²². Seconds of backward
    over those of vmap, one thread of a CPU, eight samples, six draws in a group: UNets at 64 / 256 / 1,024
    positions 2.5 / 1.6 / 0.8 (0.18 million parameters), 2.1 / 1.2 / 0.8 (0.70), 1.6 / 1.1 / – (2.8); Wan
    transformers at 80 / 320 / 1,280 positions 2.8 / 1.7 / 0.9 (0.10), 2.2 / 1.2 / 0.8 (0.49), 1.6 / 1.1 / –
    (2.0).
    """
    parameters = sum(p.numel() for p in denoiser.network.parameters())
    return math.prod(shape[1:]) <= POSITIONS and parameters <= PARAMETERS


def precision_on(device: str, precision: str, by_vmap: bool, denoiser: NetworkDenoiser) -> str:
    """An option's precision; auto is bf16 on CUDA, of the weights themselves where backward works through a
    network that can be cast."""
    if precision != AUTO:
        return precision
    if not device.startswith("cuda"):
        return "fp32"
    return "bf16" if by_vmap or not isinstance(denoiser.network, PromptNetwork) else "bf16-true"
