"""What half precision leaves of DMD's residual: python -m benchmarks.residual_precision [--rounds 64]

The shipped digits teacher against fake scores whose raw output differs from its own by a share of its norm
(the weights moved at random), one-step samples of it, 64 draws each. Printed is the error of the residual
over its own norm in float64, of single draws and of their mean over a sample, in which only what all draws
have in common is left: mean over the samples ± standard error. TF32 is emulated, by rounding what enters
convolutions and linear layers to its ten bits.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks.report import options
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.distillation.objective import dmd_residual
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import ImageNetwork, UNetNetwork
from carv_distill.teachers.precision import Bfloat16Network
from carv_distill.teachers.teacher import Teacher, load_teacher
from carv_distill.variance import Table

DRAWS = 64
DIFFERENCES = (0.35, 0.07, 0.02)
AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16)
Network = nn.Module


def halved(network: Network) -> Network:
    """Weights in bfloat16, as `teacher.precision: bfloat16` has them."""
    return Bfloat16Network(cast(ImageNetwork, network))


class Setting(NamedTuple):
    """How the two networks compute."""

    name: str
    fake: Callable[[Network], Network]
    teacher: Callable[[Network], Network]
    context: Callable[[], AbstractContextManager[object]] = nullcontext


def plain(network: Network) -> Network:
    return network


def tf32(network: Network) -> Network:
    """Convolutions and linear layers see inputs and weights of ten bits."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data = ten_bits(layer.weight.data)
            layer.register_forward_pre_hook(lambda _, inputs: tuple(map(ten_bits, inputs)))
    return network


def unguarded(network: Network) -> Network:
    """The last convolution is one like the others, as in other codes."""
    cast(UNetNetwork, network).model.conv_out.__class__ = nn.Conv2d
    return network


def ten_bits(x: Tensor) -> Tensor:
    """Float32 rounded to the nearest of ten bits of mantissa."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


SETTINGS = (
    Setting("both in float32", plain, plain),
    Setting("both in TF32", tf32, tf32),
    Setting("both under bfloat16 autocast", plain, plain, AUTOCAST),
    Setting("the same, last convolution too", unguarded, unguarded, AUTOCAST),
    Setting("teacher's weights in bfloat16, fake score in float32", plain, halved),
    Setting("teacher's weights in bfloat16, fake score under autocast", plain, halved, AUTOCAST),
    Setting("both with weights in bfloat16", halved, halved),
)


@torch.no_grad()
def moved(teacher: Teacher, share: float, x: Tensor, levels: Tensor, labels: Tensor) -> Network:
    """A copy of the network whose output differs by that share of the output's norm, to 1 %."""
    c = teacher.denoiser.coefficients(x, levels)
    output = teacher.network(c.signal * x, c.c_noise, labels)
    low, high = 0.0, 1.0
    while True:
        network, step = copy.deepcopy(teacher.network), (low + high) / 2
        for i, p in enumerate(network.parameters()):
            if p.numel() > 1:
                p.add_(torch.randn(p.shape, generator=stream("moved", i)), alpha=step * float(p.std()))
        found = float((network(c.signal * x, c.c_noise, labels) - output).norm() / output.norm())
        if abs(found / share - 1) < 0.01:
            return network
        low, high = (step, high) if found < share else (low, step)


@torch.no_grad()
def errors(teacher: Teacher, share: float, samples: int) -> dict[str, dict[str, tuple[float, float]]]:
    """setting → {"draw", "mean"} → (relative error, its standard error)."""
    precondition, top = teacher.denoiser.precondition, teacher.schedule.sigma_max
    shape = (teacher.channels, teacher.size, teacher.size)
    z = torch.randn(samples, *shape, generator=stream("z"))
    labels = torch.randint(10, (samples,), generator=stream("labels"))
    x = teacher.denoiser(top * z, z.new_full((samples,), top), labels)
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    drawn = sampler.draw(samples, DRAWS, shape, generator=stream("draws"))
    sigma, eps = teacher.schedule.sigma(drawn.u.flatten()), drawn.eps.flatten(0, 1)
    many, of_many = x.repeat_interleave(DRAWS, 0), labels.repeat_interleave(DRAWS)
    x_t = many + sigma.view(-1, 1, 1, 1) * eps
    fake = moved(teacher, share, x_t, sigma, of_many)

    def residual(a: Network, b: Network, dtype: torch.dtype = torch.float32) -> Tensor:
        of_fake, of_teacher = (NetworkDenoiser(n, precondition) for n in (a, b))
        pictures, levels, noises = (t.to(dtype) for t in (many, sigma, eps))
        r = dmd_residual(of_fake, of_teacher, pictures, levels, noises, of_many)
        return r.double().view(samples, DRAWS, -1)

    exact = residual(copy.deepcopy(fake).double(), copy.deepcopy(teacher.network).double(), torch.float64)
    result = {}
    for setting in SETTINGS:
        pair = setting.fake(copy.deepcopy(fake)), setting.teacher(copy.deepcopy(teacher.network))
        with setting.context():
            error = residual(*pair) - exact
        of_draws = error.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        of_means = error.mean(1).norm(dim=1) / exact.mean(1).norm(dim=1)
        result[setting.name] = {
            name: (float(e.mean()), float(e.std() / samples**0.5))
            for name, e in (("draw", of_draws), ("mean", of_means))
        }
    return result


def main() -> None:
    arguments = options(__doc__, rounds=64)
    teacher = load_teacher("checkpoints/digits-teacher")
    results = {share: errors(teacher, share, arguments.rounds) for share in DIFFERENCES}
    rows = []
    for setting in SETTINGS:
        for share in DIFFERENCES:
            found = results[share][setting.name]
            cells = [f"{100 * e:.2g} ± {100 * se:.1g} %" for e, se in found.values()]
            rows.append((setting.name, f"{100 * share:g} %", *cells))
    headers = ("fake score and teacher", "differ by", "error of a draw", f"of the mean of {DRAWS}")
    print(Table("Error of the residual over its norm", headers, rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
