"""The networks of a miniature Wan: untrained, and as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from carv_distill.errors import UserError
from carv_distill.files import saved_folder, write_json
from carv_distill.model_card import AS_TEACHER, CARD, THIS_FOLDER, card_head
from carv_distill.teachers.pipelines.codecs import CHUNK
from carv_distill.teachers.pipelines.wan import TOKENS
from carv_distill.teachers.prompts import piece_tokenizer
from carv_distill.teachers.teacher import TRAINING
from carv_distill.teachers.trial import building, try_call

from .options import VideoTeacherOptions

LEAST_HEAD = 6
"""Numbers of an attention head: two or more for each of time, height and width, in which its places turn."""
SIDE, FRAMES = 4, 2
"""Pixels along one side of a latent, and frames of all latents but the first."""
QUIET = -6.0
"""Logarithm of the latents' variance at the start: at 0 their noise drowns what they say of a clip, and
colours are not learned in a thousand steps."""


@dataclass
class VideoTeacherNetworks:
    """The parts of a WanPipeline."""

    vae: AutoencoderKLWan
    transformer: WanTransformer3DModel
    text_encoder: UMT5EncoderModel
    tokenizer: T5Tokenizer


def latent_shape(o: VideoTeacherOptions) -> tuple[int, int, int, int]:
    """[C, 1 + (F − 1)/2, S/4, S/4] of a clip of F frames of S × S pixels."""
    side = o.size // SIDE
    return o.latent_channels, (o.frames - 1) // FRAMES + 1, side, side


def build_video_networks(o: VideoTeacherOptions, words: Sequence[str]) -> VideoTeacherNetworks:
    """Networks for clips of `o.frames` × `o.size`² and prompts of these words.

    Raises:
        UserError: frames, sizes or widths that do not divide, or sizes that make no network.
    """
    for key, frames in (("frames", o.frames), ("vae_frames", min(o.vae_frames, o.frames))):
        if frames % CHUNK != 1:
            raise UserError(f"training.{key}: {frames} is not {CHUNK} m + 1, as this autoencoder needs")
    if o.size % (SIDE * o.patch):
        raise UserError(
            f"training.size: {o.size} is no multiple of {SIDE * o.patch}, the pixels along one side of a "
            "patch (training.patch latents)"
        )
    _check_small(o)
    if o.width % (2 * o.heads) or o.width < LEAST_HEAD * o.heads:
        raise UserError(
            f"training.width: {o.width} among training.heads, {o.heads}: a head has an even number from "
            f"{LEAST_HEAD} on; give {o.heads * max(LEAST_HEAD, 2 * (o.width // (2 * o.heads)))}"
        )
    if o.text_width % 8:
        raise UserError(f"training.text_width: {o.text_width} is no multiple of 8")
    with building("training: vae_channels, width, text_width, layers of these sizes"):
        networks = _networks(o, words)
    x, text = torch.zeros(1, *latent_shape(o)), torch.zeros(1, 4, o.text_width)
    transformer = networks.transformer

    def call() -> Tensor:
        output = transformer(x, torch.zeros(1), text, return_dict=False)[0]
        assert isinstance(output, Tensor)
        return output

    try_call(call, x.shape, "training.width, training.patch: the transformer")
    return networks


def _check_small(o: VideoTeacherOptions) -> None:
    """UserError for small clips of sizes, shares or numbers that there cannot be."""
    multiple = max(SIDE * o.patch, 8)  # rendered clips have whole eights
    for size in o.small_sizes:
        if size % multiple or not 16 <= size < o.size:
            raise UserError(
                f"training.small_sizes: {size} is no multiple of {multiple} from 16 on and below "
                f"training.size, {o.size}"
            )
    count = len(o.small_sizes)
    for name, values in (("small_shares", o.small_shares), ("small_batches", o.small_batches)):
        if len(values) != count:
            raise UserError(
                f"training.{name}: {values} for the {count} sizes of training.small_sizes; one for each is "
                "needed"
            )
    if min(o.small_shares, default=0.5) <= 0 or sum(o.small_shares) >= 1:
        raise UserError(
            f"training.small_shares: {o.small_shares}; shares above 0 with a sum below 1 are needed: the "
            "rest is that of training.size"
        )
    if min(o.small_batches, default=1) < 1:
        raise UserError(f"training.small_batches: {o.small_batches}; at least 1 clip a step is needed")


def _networks(o: VideoTeacherOptions, words: Sequence[str]) -> VideoTeacherNetworks:
    c, t, side, _ = latent_shape(o)
    # As Wan 2.2's: patches of pixels, and shortcuts past what makes them smaller and larger.
    patch = 2
    vae = AutoencoderKLWan(
        base_dim=o.vae_channels,
        z_dim=c,
        dim_mult=[1, 1],  # once smaller
        num_res_blocks=1,
        temperal_downsample=[True],
        is_residual=True,
        patch_size=patch,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        latents_mean=[0.0] * c,
        latents_std=[1.0] * c,
        scale_factor_temporal=FRAMES,
        scale_factor_spatial=SIDE,
    )
    with torch.no_grad():
        vae.quant_conv.bias[c:] = QUIET
    transformer = WanTransformer3DModel(
        patch_size=(1, o.patch, o.patch),
        num_attention_heads=o.heads,
        attention_head_dim=o.width // o.heads,
        in_channels=c,
        out_channels=c,
        text_dim=o.text_width,
        freq_dim=64,
        ffn_dim=4 * o.width,
        num_layers=o.layers,
        rope_max_seq_len=max(32, 2 * max(t, side // o.patch)),
    )
    tokenizer = piece_tokenizer(words)
    text = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=o.text_width,
            d_kv=8,
            d_ff=4 * o.text_width,
            num_layers=o.text_layers,
            num_heads=o.text_width // 8,
        )
    )
    return VideoTeacherNetworks(vae, transformer, text, tokenizer)


def build_video_scheduler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    """1,000 levels t of flow matching, σ = t/(1 − t), shifted to s t/(1 + (s − 1) t)."""
    return FlowMatchEulerDiscreteScheduler(1000, shift=shift)


def save_video_networks(
    folder: Path,
    networks: VideoTeacherNetworks,
    scheduler: FlowMatchEulerDiscreteScheduler,
    o: VideoTeacherOptions,
    step: int,
    seed: int | None,
) -> None:
    """A WanPipeline that diffusers reads, a page on it and what it learned from; written whole or not at all.

    Args:
        seed: of the clips; None where it learned from some of them alone.
    """
    pipeline = WanPipeline(
        tokenizer=networks.tokenizer,
        text_encoder=networks.text_encoder,
        vae=networks.vae,
        transformer=networks.transformer,
        scheduler=scheduler,
    )
    with saved_folder(folder) as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
        (scratch / CARD).write_text(_card(o, step), "utf-8")
        clips = {"frames": o.frames, "size": o.size, "count": o.clips, "seed": seed}
        write_json(scratch / TRAINING, {"clips": None if seed is None else clips})


def _card(o: VideoTeacherOptions, step: int) -> str:
    return f"""{card_head("text-to-video")}

# A miniature Wan

Text to clips of {o.frames} frames of {o.size}×{o.size}: a solid or a digit that moves, as "a red cube moves
left", before a background that moves, too. Trained by carv-distill for {step} steps on rendered clips.
A `WanPipeline`; prompts are padded to {TOKENS} tokens, as it learned them:

```python
from diffusers import WanPipeline

{THIS_FOLDER}
pipeline = WanPipeline.from_pretrained(folder)
size = dict(height={o.size}, width={o.size}, num_frames={o.frames})
pipeline("a red cube moves left", **size, num_inference_steps=50, guidance_scale=4.0).frames[0]
```

{AS_TEACHER}
"""
