"""Blocks that come to the device one at a time: same numbers, and never two of them there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.models.offload import offload_blocks
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, stream
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.attributed import tiny_teacher
from tests.helpers.tiny_pipelines import EVERY, SIZES

PROMPTS = ["a red torus", "a cube"]


def features(teacher: TextTeacher, device: str = "cpu") -> Tensor:
    """Of two samples by three draws, with checkpoints."""
    g = stream("offload")
    u = torch.tensor([[0.1, 0.5, 0.9]])
    x, eps = (torch.randn(n, *teacher.shape, generator=g).to(device) for n in (2, 3))
    draws = Draws(u.to(device), torch.ones(1, 3, device=device), eps[None])
    loss = SampleLoss(teacher.denoiser, teacher.schedule, device=device)
    batch = SampleBatch(x, teacher.prompts(PROMPTS).to(device))
    return BackwardGradients(loss, checkpointing=True)(batch, draws[0])


@pytest.mark.parametrize("name", ["wan", "sd3", "flux"])
def test_features_are_the_same_to_the_bit_and_one_block_is_there(tmp_path: Path, name: str) -> None:
    teacher = load_text_teacher(EVERY[name](tmp_path), SIZES.get(name, ()))
    expected = features(teacher)
    weights = {n: p.clone() for n, p in teacher.network.named_parameters()}
    lists = [part for part in teacher.network.model.children() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in lists for block in part]
    host = [next(block.parameters()).data_ptr() for block in blocks]
    offload_blocks(teacher.network, "cpu")
    most, brought = 0, []

    def look(block: nn.Module, _: object) -> None:
        nonlocal most
        there = [b for b, at in zip(blocks, host, strict=True) if next(b.parameters()).data_ptr() != at]
        most = max(most, len(there))
        brought.append(blocks.index(block))
        assert there == [block]

    for block in blocks:
        block.register_forward_pre_hook(look)
    assert torch.equal(features(teacher), expected)
    assert most == 1
    last = len(blocks) - 1
    assert brought[: 2 * last + 1] == [*range(last + 1), *reversed(range(last + 1))][: 2 * last + 1]
    for n, p in teacher.network.named_parameters():
        assert torch.equal(p, weights[n])
        assert p.grad is None


def test_networks_without_such_blocks_are_refused(tmp_path: Path) -> None:
    unet = load_text_teacher(EVERY["sd"](tmp_path / "sd"))
    with pytest.raises(UserError, match=r"^--offload: UNet2DConditionModel is no transformer of blocks"):
        offload_blocks(unet.network, "cpu")
    trained: TrainedModel = tiny_teacher(tmp_path / "unet")
    with pytest.raises(UserError, match=r"^--offload: .* is no transformer that prompts condition"):
        load_model(trained, "cpu", ModelOptions(offload=True))


def test_what_wan_of_14_billion_weights_leaves_on_a_gpu() -> None:
    """In bfloat16, without activations; on meta, from its published configuration."""
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40, text_dim=4096
        )
    whole = sum(p.numel() for p in model.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    there = whole - sum(blocks) + max(blocks)
    assert round(2 * whole / 1e9, 1) == 28.6
    assert round(2 * there / 1e9, 1) == 1.2


@pytest.mark.gpu
def test_the_same_features_on_a_gpu(tmp_path: Path) -> None:
    teacher = load_text_teacher(EVERY["wan"](tmp_path), SIZES["wan"])
    expected = features(teacher)
    offload_blocks(teacher.network, "cuda")
    found = features(teacher, "cuda").cpu()
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    blocks = teacher.network.model.get_submodule("blocks").children()
    there = [block for block in blocks if next(block.parameters()).device.type == "cuda"]
    assert len(there) == 1
