"""Sharded networks on one card, in a group of one process: the paths are those of many."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import UNet2DModel
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from carv_distill.engine.optimisation import ParameterVector
from carv_distill.engine.sharding import ParameterShards, shard
from carv_distill.teachers.network import UNetNetwork
from tests.helpers.small import ON_GPU

pytestmark = ON_GPU


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("nccl", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cuda", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("half", [False, True])
def test_gradients_on_a_card_and_what_a_forward_leaves_there(mesh: DeviceMesh, half: bool) -> None:
    """One update's calls against a whole network's, in float32 and under autocast; shards come from the host
    to the card, and after a call without gradients no joined block is left."""
    network = UNetNetwork(
        UNet2DModel(
            32,
            3,
            3,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(64, 128),
            num_class_embeds=10,
        )
    )
    network.requires_grad_(True).eval()
    whole = copy.deepcopy(network).cuda()
    shard(network, mesh)
    assert all(isinstance(p, DTensor) and p.is_cuda for p in network.parameters())
    x = torch.randn(4, 3, 32, 32, device="cuda")
    c_noise, labels = torch.rand(4, device="cuda"), torch.arange(4, device="cuda")
    gradients = []
    for model, kind in ((whole, ParameterVector), (network, ParameterShards)):
        with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
            loss = model(x, c_noise, labels).square().mean()
            with torch.no_grad():
                model(x / 2, c_noise, labels)
        loss.backward()
        theta = kind(list(model.parameters()))
        theta.collect_gradient()
        gradients.append(torch.cat([g.flatten() for g in theta.gradients]))
    bound = (1e-2 if half else 1e-3) * gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=bound)
    del loss, gradients, whole
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        network(x, c_noise, labels)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + x.nbytes
