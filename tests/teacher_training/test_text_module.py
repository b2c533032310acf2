"""The stages of a miniature Stable Diffusion."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

from carv_distill.data.solids import prompted_solids, vocabulary
from carv_distill.engine.optimisation import stage_rate
from carv_distill.errors import UserError
from carv_distill.teacher_training.losses import autoencoder_loss, clamp_scale, contrastive_loss
from carv_distill.teacher_training.networks import build_networks
from carv_distill.teacher_training.options import TextTeacherOptions
from carv_distill.teacher_training.text_module import TextTeacherModule
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.loops import fit
from tests.helpers.pages import run_page

SMALL = {"vae_channels": [8, 8], "unet_channels": [8, 8], "text_width": 8, "clip_width": 8, "batch": 4}


def make(max_steps: int = 10) -> TextTeacherModule:
    torch.manual_seed(0)
    options = TextTeacherOptions(**SMALL, vae_share=0.4, clip_share=0.2, clip_patch=8, warmup=1)
    networks = build_networks(options, 16, vocabulary(), 10)
    return TextTeacherModule(networks, prompted_solids(16, 1), options, max_steps, 0)


def test_each_stage_moves_its_own_networks() -> None:
    """Steps 0–3 the autoencoder, 4–7 denoiser and text encoder with their averages, 8–9 CLIP."""
    learned = {
        4: {"vae"},
        8: {"vae", "denoiser", "text_encoder", "ema_denoiser", "ema_text_encoder"},
        10: {"vae", "denoiser", "text_encoder", "ema_denoiser", "ema_text_encoder", "clip"},
    }
    for steps, moved in learned.items():
        module = make()
        before = {n: p.clone() for n, p in module.named_parameters()}
        fit(module, steps)
        found = {n.split(".")[0] for n, p in module.named_parameters() if not torch.equal(p, before[n])}
        assert found == moved


def test_the_learning_rate_warms_up_and_decays_within_its_stage() -> None:
    rate = partial(stage_rate, start=40, end=80, warmup=make(100).options.warmup)
    assert [rate(s) for s in (39, 80)] == [0, 0]
    assert rate(40) == 1
    assert rate(60) == pytest.approx((1 + math.cos(math.pi * 19 / 39)) / 2)


def test_latents_have_unit_variance_and_are_kept_from_the_second_stage_on() -> None:
    module = make()
    assert module.latents()[0] is not module.latents()[0]  # the autoencoder still learns
    fit(module, 6)
    mean, std, factor = module.latents()
    assert module.latents()[0] is mean
    assert float((mean.var() + std.square().mean()).sqrt() * factor) == pytest.approx(1, rel=1e-5)


def test_latents_are_in_full_precision_under_autocast() -> None:
    """Whoever asks first: a training's step in bfloat16, or a preview of the run that was resumed."""
    module = fit(make(), 6)
    plain = module.latents()
    module._latents = None
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module.latents()
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_what_is_saved_is_a_pipeline_and_a_clip_model(tmp_path: Path) -> None:
    module = fit(make(), 10)
    module.save(tmp_path / "teacher", module.global_step)
    run_page(tmp_path / "teacher")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "teacher", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red torus", height=16, width=16, num_inference_steps=2).images[0]
    assert picture.size == (16, 16)
    teacher = load_text_teacher(tmp_path / "teacher")
    assert teacher.image_size == 16
    averaged = dict(module.ema_denoiser.network.model.named_parameters())
    assert all(torch.equal(p, averaged[n]) for n, p in teacher.network.model.named_parameters())
    assert teacher.codec.scale == pytest.approx(float(module.latents()[2]))
    clip = CLIPModel.from_pretrained(tmp_path / "teacher" / "clip")
    processor = CLIPProcessor.from_pretrained(tmp_path / "teacher" / "clip")
    images = module.images[:2]
    raw = ((images + 1) / 2 * 255).round().to(torch.uint8)
    pixels = processor(images=list(raw), return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, images, atol=0.02)  # as it was trained
    assert all(torch.equal(p, dict(module.clip.named_parameters())[n]) for n, p in clip.named_parameters())


def test_pictures_of_prompts(tmp_path: Path) -> None:
    module = fit(make(), 10)
    images = module.pictures(["a red torus", "a blue cube"], torch.Generator().manual_seed(0), steps=2)
    assert images.shape == (2, 3, 16, 16)
    assert images.isfinite().all()


def test_the_contrastive_loss_counts_equal_prompts_as_matches() -> None:
    """By hand for three pictures of which the first two share a prompt."""
    clip = make().clip.eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 4, 3]])
    s = clip(input_ids=tokens, pixel_values=images).logits_per_image
    match = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    rows, columns = -(match * s.log_softmax(1)).sum(1).mean(), -(match * s.T.log_softmax(1)).sum(1).mean()
    assert torch.allclose(contrastive_loss(clip, images, tokens), (rows + columns) / 2)


def test_the_autoencoder_loss_is_error_plus_divergence() -> None:
    vae = make().vae
    images = torch.randn(2, 3, 16, 16)
    noise = torch.randn(2, 4, 8, 8)
    q = vae.encode(images).latent_dist
    kl = 0.5 * (q.mean.square() + q.var - 1 - q.var.log()).sum((1, 2, 3)).mean()
    decoded = vae.decode(q.mean + q.std * noise).sample
    wanted = (decoded - images).abs().mean() + 0.1 * kl
    assert torch.allclose(autoencoder_loss(vae, images, noise, 0.1), wanted, rtol=1e-5)


def test_the_scale_stays_at_a_hundred() -> None:
    clip = make().clip
    with torch.no_grad():
        clip.logit_scale.fill_(9.0)
    clamp_scale(clip)
    assert float(clip.logit_scale.exp()) == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({"vae_channels": [10]}, 16, "training.vae_channels"),
        ({"unet_channels": []}, 16, "training.unet_channels"),
        ({}, 18, "data.size: 18 is no multiple of 4"),
        ({"clip_patch": 3}, 16, "training.clip_patch: 3 does not divide"),
        ({"text_width": 12}, 16, "training.text_width: 12"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, object], size: int, said: str) -> None:
    options = TextTeacherOptions(**{**SMALL, "clip_patch": 4, **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        build_networks(options, size, vocabulary(), 10)


@pytest.mark.parametrize("changes", [{"text_width": 56}, {"clip_width": 56}, {"vae_channels": [8, 10**9]}])
def test_sizes_that_make_no_network_are_one_line(changes: dict[str, object]) -> None:
    """56 channels are three heads, which do not divide them."""
    options = TextTeacherOptions(**{**SMALL, **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^training: vae_channels, .* make no network: ") as caught:
        build_networks(options, 16, vocabulary(), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "attends"), [(None, [True, True]), (8, [True, True]), (4, [False, True]), (2, [False, False])]
)
def test_attention_from_a_resolution_on(size: int | None, attends: list[bool]) -> None:
    """Latents of 8 × 8, and 4 × 4 below them."""
    options = TextTeacherOptions(**SMALL, clip_patch=8, attention_size=size)
    unet = build_networks(options, 16, vocabulary(), 10).unet
    found = ["CrossAttn" in kind for kind in unet.config.down_block_types]
    assert found == attends
    assert ["CrossAttn" in kind for kind in reversed(unet.config.up_block_types)] == attends
