"""Sharded networks against whole ones, in gloo processes on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from carv_distill.distillation.options import AdapterOptions
from carv_distill.engine.optimisation import NetworkParameters, ParameterVector
from carv_distill.engine.sharding import (
    ParameterShards,
    Skeleton,
    blocks,
    joined,
    mean_gradient,
    network_parameters,
    own_part,
    shard,
    total_norm,
)
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.network import RawNetwork, UNetNetwork
from carv_distill.teachers.precision import Bfloat16Network
from carv_distill.teachers.teacher import raw_network
from carv_distill.variance import flat_gradient
from tests.helpers import adapted
from tests.helpers.edm_networks import small
from tests.helpers.processes import Processes
from tests.helpers.tiny_unet import tiny_unet

TINY_BLOCKS = ["mid_block", "up_blocks.1", "up_blocks.0", "down_blocks.1", "down_blocks.0"]


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    """Two processes for all tests here."""
    processes = Processes(2)
    yield processes
    processes.close()


class Uneven(nn.Module):
    """Parameters that two processes cannot halve: one row, three rows, five numbers."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        for name, shape in (("one", (1, 4)), ("three", (3, 4)), ("five", (5,)), ("unreached", (2, 2))):
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """x [n, 4] → [n, 9]."""
        return torch.cat([x @ self.one.T, x @ self.three.T, x[:, :1] * self.five], 1)


def rows(number: int) -> Tensor:
    """The batch of one share."""
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def unet(labels: int | None = 10) -> UNetNetwork:
    """A raw network in float64."""
    return UNetNetwork(tiny_unet(labels=labels)).double().requires_grad_(True).eval()


def batch(number: int, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Images, noise levels and labels of one share."""
    g = torch.Generator().manual_seed(number)
    x = torch.randn(2, channels, 8, 8, generator=g, dtype=torch.float64)
    return x, torch.rand(2, generator=g, dtype=torch.float64), torch.randint(10, (2,), generator=g)


def loss_of(network: RawNetwork, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Of two calls and of the encoder's features, with a call between that has no gradient: as a fake score
    with a discriminator is used."""
    x, c_noise, labels = given
    loss = network(x, c_noise, labels).square().mean()
    with torch.no_grad():
        network(x, c_noise, labels)
    loss = loss + network(x / 2, c_noise, labels).abs().mean()
    return loss + sum(f.square().mean() for f in network.encoder(x / 3, c_noise, labels)[:1])


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (
            UNetNetwork(tiny_unet()),
            TINY_BLOCKS,
        ),
        (adapted.network("flux"), ["single_transformer_blocks.0", "transformer_blocks.0"]),
        (adapted.network("sd3"), ["transformer_blocks.1", "transformer_blocks.0"]),
        (adapted.network("wan"), ["blocks.0"]),
        (nn.Linear(2, 2), []),
    ],
)
def test_what_is_joined_at_a_time(network: nn.Module, names: list[str]) -> None:
    """Transformer blocks by what diffusers says of them, a UNet's by their place; inner ones first."""
    found = {id(module): name.partition(".")[2] for name, module in network.named_modules()}
    assert [found[id(block)] for block in blocks(network)] == names


def test_every_weight_of_a_large_unet_is_in_some_block_but_the_ends(two: Processes) -> None:
    """A conditional UNet's transformers and resnets are blocks inside of blocks, and come before them."""
    network = adapted.network("unet")
    chosen = blocks(network)
    kinds = [type(block).__name__ for block in chosen]
    assert {"BasicTransformerBlock", "ResnetBlock2D", "CrossAttnUpBlock2D"} <= set(kinds)
    for i, block in enumerate(chosen):
        inside = {id(m) for m in block.modules()} - {id(block)}
        assert not inside & {id(later) for later in chosen[i + 1 :]}
    outside = {id(p) for p in network.parameters()} - {id(p) for b in chosen for p in b.parameters()}
    ends = ("conv_in", "time_embedding", "conv_norm_out", "conv_out")
    left = {n.split(".")[1] for n, p in network.named_parameters() if id(p) in outside}
    assert left <= set(ends)


def note(seen: list[Tensor], theta: NetworkParameters, *_: object) -> None:
    """Called when an optimiser is about to step."""
    seen.append(theta.whole(theta.gradients).clone())


def same_gradients(mesh: DeviceMesh, kind: str) -> None:
    whole: RawNetwork = unet() if kind == "unet" else raw_network(small(kind)).double().requires_grad_(True)
    network, channels = copy.deepcopy(whole), whole.shape[0]
    shard(network, mesh)
    vector, shards = ParameterVector(list(whole.parameters())), ParameterShards(list(network.parameters()))
    for step in range(2):  # what a step changed is what the next calls see
        gradients: list[Tensor] = []
        for share in range(4):
            (loss_of(whole, batch(10 * step + share, channels)) / 4).backward()
        for share in range(2):
            for module in network.modules():
                if isinstance(module, FSDPModule):
                    module.set_requires_gradient_sync(share == 1, recurse=False)
            number = 10 * step + 2 * dist.get_rank() + share
            (loss_of(network, batch(number, channels)) / 2).backward()
        for theta in (vector, shards):
            optimizer = torch.optim.SGD(theta.tensors, lr=0.1)
            optimizer.register_step_pre_hook(partial(note, gradients, theta))
            clipped = theta.descend(optimizer, 0.1)
            assert clipped is not None
            assert clipped
        torch.testing.assert_close(shards.gradient_norm(), vector.gradient_norm(), rtol=1e-10, atol=0)
        weights = shards.whole(shards.local)
        if dist.get_rank() == 0:
            torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-13)
            torch.testing.assert_close(weights, vector.theta.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.ddp
@pytest.mark.parametrize(
    "kind", ["unet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ddpm++", "adm"))]
)
def test_gradients_are_those_of_a_whole_network(two: Processes, kind: str) -> None:
    """Two processes with two shares each against one with four, float64, 1e-10: several calls before a
    backward, features alone of the encoder, one reduction for both shares, steps that are clipped."""
    two.run(same_gradients, kind)


def same_steps(mesh: DeviceMesh) -> None:
    whole, network = Uneven(), Uneven()
    shard(network, mesh)
    vector = network_parameters(list(whole.parameters()), 1)
    shards = network_parameters(list(network.parameters()), mesh.size())
    assert isinstance(vector, ParameterVector)
    assert isinstance(shards, ParameterShards)
    averages = [[torch.zeros_like(t) for t in theta.local] for theta in (vector, shards)]
    adams = [torch.optim.AdamW(t.tensors, 0.1, weight_decay=0.1, fused=True) for t in (vector, shards)]
    for step in range(3):
        for rank in range(mesh.size()):
            (whole(rows(10 * step + rank)).square().mean() / mesh.size()).backward()
        network(rows(10 * step + mesh.get_local_rank())).square().mean().backward()
        for theta, adam, average in zip((vector, shards), adams, averages, strict=True):
            theta.descend(adam)
            theta.average_into(average, 0.5)
    vectors = [shards.whole(parts) for parts in (shards.local, averages[1])]
    moments = [shards.whole([adams[1].state[p]["exp_avg"].to_local() for p in shards.tensors])]
    if mesh.get_local_rank() == 0:
        expected = [vector.local[0], averages[0][0], adams[0].state[vector.theta]["exp_avg"]]
        for found, value in zip(vectors + moments, expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-14)
    for part, value in zip(shards.own(vector.local[0]), shards.local, strict=True):
        torch.testing.assert_close(part, value, rtol=1e-12, atol=1e-14)
    row = torch.cat([part.flatten() for part in shards.local])
    assert all(torch.equal(a, b) for a, b in zip(shards.cut(row), shards.local, strict=True))
    assert all(p.grad is None for p in shards.tensors)


@pytest.mark.ddp
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_steps_moments_and_averages_of_parameters_that_cannot_be_halved(two: Processes, count: int) -> None:
    """Three steps of AdamW with weight decay against those of one vector; a parameter that is not reached
    decays too, and a process may have nothing of one."""
    processes = two if count == 2 else Processes(count)
    processes.run(same_steps)
    if processes is not two:
        processes.close()


def same_parts(mesh: DeviceMesh) -> None:
    for shape in ((1, 3), (2,), (3, 2), (7, 1, 2)):
        tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
        cut = distribute_tensor(tensor, mesh, [Shard(0)])
        assert torch.equal(own_part(tensor, cut), cut.to_local())
        back = joined(cut)
        assert torch.equal(back, tensor) if dist.get_rank() == 0 else not back.numel()
    sharded, plain = distribute_tensor(torch.full((3,), 2.0), mesh, [Shard(0)]), torch.full((4,), 3.0)
    torch.testing.assert_close(total_norm([sharded, plain]), torch.tensor((12 + 36) ** 0.5))
    torch.testing.assert_close(total_norm([plain]), torch.tensor(6.0))
    bad = torch.full((3,), torch.nan) if dist.get_rank() == 1 else torch.ones(3)
    assert total_norm([DTensor.from_local(bad, mesh, [Shard(0)])]).isnan()


@pytest.mark.ddp
def test_parts_of_tensors_and_norms_over_them(two: Processes) -> None:
    """As torch cuts them; what is whole counts once, and NaN in one process is seen by all."""
    two.run(same_parts)


def measured_aside(mesh: DeviceMesh) -> None:
    whole, network = unet(), unet()
    shard(network, mesh)
    rank, world = mesh.get_local_rank(), mesh.size()
    total = sum(loss_of(whole, batch(i)) for i in range(2 * world))
    assert isinstance(total, Tensor)
    expected = flat_gradient(total, list(whole.parameters()))
    losses = (loss_of(network, batch(2 * rank + i)) for i in range(2))
    parameters = list(network.parameters())
    part = mean_gradient(losses, 2, parameters, world)
    shards = ParameterShards(parameters)
    found = shards.whole(shards.cut(part))
    if rank == 0:
        torch.testing.assert_close(found, expected / (2 * world), rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in parameters)
    square = part.double().square().sum()
    dist.all_reduce(square)
    torch.testing.assert_close(square, (expected / (2 * world)).square().sum(), rtol=1e-10, atol=0)


@pytest.mark.ddp
def test_a_gradient_that_is_measured_leaves_none_behind(two: Processes) -> None:
    two.run(measured_aside)


def same_frozen(mesh: DeviceMesh) -> None:
    teacher = UNetNetwork(tiny_unet(labels=10)).requires_grad_(False).eval()
    half = Bfloat16Network(copy.deepcopy(teacher))
    x, c_noise, labels = (t.float() if t.is_floating_point() else t for t in batch(0))
    for network in (teacher, half):
        with torch.no_grad():
            expected = network(x, c_noise, labels)
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network.encoder(leaf, c_noise, labels)[0].float().sum(), leaf)
        bones, bytes_before = Skeleton(network), held(network)
        shard(network, mesh)
        with torch.no_grad():
            assert torch.equal(network(x, c_noise, labels), expected)
        (found,) = torch.autograd.grad(network.encoder(leaf, c_noise, labels)[0].float().sum(), leaf)
        assert torch.equal(found, slope)
        assert held(network) < 0.52 * bytes_before
        full = bones.filled(network)
        if dist.get_rank() == 0:
            assert full is not None
            with torch.no_grad():
                assert torch.equal(full(x, c_noise, labels), expected)
            assert all(p.device.type == "cpu" and not p.requires_grad for p in full.parameters())
        else:
            assert full is None


def held(network: nn.Module) -> int:
    """Bytes of parameters in this process."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in network.parameters()]
    return sum(part.nbytes for part in parts)


@pytest.mark.ddp
def test_a_frozen_teacher_gives_the_same_bits_from_half_the_bytes(two: Processes) -> None:
    """In float32 and in bfloat16 with a float32 end, its gradient by the input too; and whole again."""
    two.run(same_frozen)


def same_adapters(mesh: DeviceMesh, kind: str, checkpointing: bool) -> None:
    names = ("student", "fake")
    base = adapted.network(kind).double()
    if checkpointing:
        base.unet.enable_gradient_checkpointing()
    lora = AdapterOptions(kind="lora", rank=2)
    one, two = (
        SharedNetwork(n, lora, names, seed=1, key="dmd.adapters") for n in (base, copy.deepcopy(base))
    )
    with torch.no_grad():  # B = 0 would leave A without a gradient
        for shared in (one, two):
            for name in names:
                for i, p in enumerate(shared.parameters(name)):
                    p.add_(torch.sin(torch.arange(p.numel(), dtype=p.dtype) + i).view_as(p) / 10)
    shard(two.network, mesh, [p for name in names for p in two.parameters(name)])
    x, c_noise, cond = adapted.inputs(kind, torch.float64)
    own = x * (1 + mesh.get_local_rank())
    vectors = [ParameterVector(two.parameters(name), mesh.size()) for name in names]
    student, fake, teacher = (two.view(name) for name in (*names, None))
    out = student(own, c_noise, cond)
    with torch.no_grad():  # between forward and backward, as a residual is made
        direction = fake(own, c_noise, cond) - teacher(own, c_noise, cond)
    (out * direction).sum().backward()
    fake(own, c_noise, cond).square().sum().backward()
    for vector in vectors:
        vector.collect_gradient()
    expected = [ParameterVector(one.parameters(name)) for name in names]
    for scale in range(1, 1 + mesh.size()):
        with torch.no_grad():
            direction = one.view("fake")(x * scale, c_noise, cond) - one.view(None)(x * scale, c_noise, cond)
        ((one.view("student")(x * scale, c_noise, cond) * direction).sum() / mesh.size()).backward()
        (one.view("fake")(x * scale, c_noise, cond).square().sum() / mesh.size()).backward()
    for found, vector in zip(vectors, expected, strict=True):
        vector.collect_gradient()
        assert vector.gradients[0].abs().max() > 1e-6
        torch.testing.assert_close(found.gradients[0], vector.gradients[0], rtol=1e-8, atol=1e-10)
    frozen = [p for n, p in two.network.named_parameters() if ".lora_" not in n]
    assert all(isinstance(p, DTensor) and p.grad is None for p in frozen)
    assert not any(isinstance(p, DTensor) for name in names for p in two.parameters(name))


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [
        ("unet", True),
        ("flux", True),
        *(pytest.param(kind, False, marks=pytest.mark.slow) for kind in ("unet", "flux", "sd3")),
        pytest.param("sd3", True, marks=pytest.mark.slow),
    ],
)
def test_adapters_over_a_sharded_base(two: Processes, kind: str, checkpointing: bool) -> None:
    """The base in shards, adapters whole in every process and averaged as vectors: gradients of two adapters,
    used in turn, against an unsharded base; float64."""
    two.run(same_adapters, kind, checkpointing)
