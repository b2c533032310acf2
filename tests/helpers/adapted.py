"""Small text-to-image networks for adapters: raw networks F(x, c_noise, cond) and whole pipelines."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.distillation.memory.footprint import without_memory
from carv_distill.teachers.adapters import AdapterView, SharedNetwork
from carv_distill.teachers.low_rank import LowRankOptions

C_NOISE = torch.tensor([3.0, 40.0])


class Wrapped(nn.Module):
    """A raw network around any diffusers model; `cond` holds the model's other arguments."""

    def __init__(self, unet: ModelMixin) -> None:
        super().__init__()
        self.unet = unet
        self.label = "the raw network's own"

    def forward(self, x: Tensor, c_noise: Tensor, cond: dict[str, Any]) -> Tensor:
        return self.unet(x, timestep=c_noise, return_dict=False, **cond)[0]

    def encoder(self, x: Tensor, c_noise: Tensor, cond: dict[str, Any]) -> list[Tensor]:
        features: list[Tensor] = []
        hook = self.unet.down_blocks[0].register_forward_hook(lambda m, i, out: features.append(out[0]))
        self(x, c_noise, cond)
        hook.remove()
        return features

    def trainable_copy(self) -> nn.Module:
        return self.requires_grad_(True)

    def save(self, folder: Path) -> None:
        self.unet.save_pretrained(folder)


def inputs(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """(x, c_noise, cond) of two rows for a model of :func:`network`."""
    g = stream("adapters", kind)

    def noise(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=g, dtype=torch.float64).to(dtype)

    x, words = noise(4, 4, 4), noise(5, 8)
    cond: dict[str, Any] = {"encoder_hidden_states": words}
    if kind == "sd3":
        cond["pooled_projections"] = noise(8)
    if kind == "flux":
        x = noise(16, 4)
        cond |= {"pooled_projections": noise(8), "txt_ids": torch.zeros(5, 3), "img_ids": torch.zeros(16, 3)}
    if kind == "wan":
        x = noise(4, 2, 4, 4)
    return x, C_NOISE.to(dtype), cond


def network(kind: str = "unet", **config: Any) -> Wrapped:
    """A random model of a family; the same weights at every call."""
    heads: dict[str, Any] = {"attention_head_dim": 4, "num_attention_heads": 2, "num_layers": 1}
    inside: dict[str, Any] = {"in_channels": 4, "out_channels": 4, **heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "unet":
            return Wrapped(
                UNet2DConditionModel(
                    sample_size=4,
                    down_block_types=("CrossAttnDownBlock2D",),
                    up_block_types=("CrossAttnUpBlock2D",),
                    block_out_channels=(8,),
                    layers_per_block=1,
                    cross_attention_dim=8,
                    attention_head_dim=4,
                    norm_num_groups=4,
                    **config,
                )
            )
        if kind == "sd3":
            sizes = {"caption_projection_dim": 8, "joint_attention_dim": 8, "pooled_projection_dim": 8}
            return Wrapped(SD3Transformer2DModel(4, patch_size=1, **{**inside, "num_layers": 2}, **sizes))
        if kind == "flux":
            sizes = {"joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4)}
            flux = {**inside, "attention_head_dim": 8, "num_single_layers": 1, **sizes}
            return Wrapped(FluxTransformer2DModel(patch_size=1, **flux))
        if kind == "pixart":
            sizes = {"cross_attention_dim": 8, "caption_channels": 8, "use_additional_conditions": False}
            return Wrapped(PixArtTransformer2DModel(sample_size=4, patch_size=1, **inside, **sizes))
        wan = {**inside, "attention_head_dim": 6, "text_dim": 8, "freq_dim": 8, "ffn_dim": 16}
        return Wrapped(WanTransformer3DModel(patch_size=(1, 1, 1), **wan))


def sd3_pipeline(transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """A pipeline without text encoders."""
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    parts = dict.fromkeys(f"{part}{i}" for part in ("tokenizer", "text_encoder") for i in ("", "_2", "_3"))
    return StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), vae, **parts)


NAMES = ("student", "average", "fake")


def shared_network(
    kind: str = "unet", dtype: torch.dtype = torch.float64, spread: float = 0.3, **options: Any
) -> SharedNetwork:
    """With student and fake away from the teacher by random A and B."""
    shared = SharedNetwork(
        network(kind).to(dtype), LowRankOptions(**options), NAMES, seed=1, key="dmd.adapters"
    )
    for name in NAMES if spread else ():
        g = stream("spread", name)
        for p in shared.parameters(name):
            p.data.copy_(spread * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return shared


def on_cuda(view: AdapterView) -> AdapterView:
    """A copy of a view on a CUDA device that need not be there: its tensors have no memory."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="cuda")

    network = view.shared.network
    with without_memory():
        memory = {id(p): nn.Parameter(moved(p), p.requires_grad) for p in network.parameters()}
        return copy.deepcopy(view, {**memory, **{id(b): moved(b) for b in network.buffers()}})
