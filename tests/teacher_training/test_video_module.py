"""A miniature Wan in training: reproducible, in stages, and a WanPipeline at its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.training_data import named_model
from carv_distill.data.clips.options import ClipOptions
from carv_distill.errors import UserError
from carv_distill.files import read_json
from carv_distill.teacher_training.options import VideoTeacherOptions
from carv_distill.teacher_training.video_module import SHOWN, VideoTeacherModule, pixels, preview
from carv_distill.teacher_training.video_networks import build_video_networks
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.pipelines.wan import TOKENS
from tests.helpers.loops import fit
from tests.helpers.pages import run_page

OPTIONS = VideoTeacherOptions(
    frames=5,
    size=16,
    clips=8,
    vae_channels=4,
    latent_channels=4,
    patch=2,
    width=24,
    heads=1,
    layers=2,
    text_width=8,
    vae_batch=2,
    vae_crop=16,
    batch=3,
    shift=2.0,
    ema=0.5,
)
PROMPTS = ["a red cube moves left", "a 7", "a 7 turns", "a red cube"]
WORDS = sorted({word for prompt in PROMPTS for word in prompt.split()})


def clips() -> torch.Tensor:
    return torch.randint(
        256, (4, 5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def trained(steps: int = 4) -> VideoTeacherModule:
    torch.manual_seed(0)
    networks = build_video_networks(OPTIONS, WORDS)
    return fit(VideoTeacherModule(networks, clips(), PROMPTS, OPTIONS, steps, seed=0), steps)


def test_the_folder_says_which_clips_it_learned_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = replace(OPTIONS, clips=8)
    module = VideoTeacherModule(
        build_video_networks(options, WORDS), clips().repeat(2, 1, 1, 1, 1), PROMPTS * 2, options, 4, seed=5
    )
    module.save(tmp_path, 0)
    o = InfluenceOptions(teacher=str(tmp_path), data="clips")
    assert named_model(o).data == ClipOptions(None, (5, 16, 16), 8, 5)


def test_stages_learn_in_turn_and_the_folder_is_a_teacher(tmp_path: Path) -> None:
    """What the transformer learned from is what a teacher encodes, and what it is told is the pipeline's."""
    module = trained().eval()
    assert module.starts == (0, 2, 4)
    assert set(module.latest_losses) == {"transformer"}
    x, scale = module.latents(torch.arange(4)), module.scale()
    torch.testing.assert_close(x.float().mean((0, 2, 3, 4)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.float().std((0, 2, 3, 4)), torch.ones(4), rtol=0, atol=1e-3)
    module.save(tmp_path / "teacher", 4)
    assert read_json(tmp_path / "teacher" / "training.json") == {"clips": None}  # four of the eight
    run_page(tmp_path / "teacher")
    teacher = load_text_teacher(tmp_path / "teacher", (5, 16, 16))
    assert teacher.shape == (4, 3, 4, 4)
    assert not teacher.prompts.unknown_words("a red cube turns left")
    torch.testing.assert_close(teacher.schedule.table, module.schedule.table)
    mean = teacher.codec.vae.encode(pixels(clips()[:1])).latent_dist.mean
    scaled = (mean - scale[0].view(-1, 1, 1, 1)) / scale[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(scaled, x[:1].float(), rtol=0, atol=5e-3)  # kept in float16
    pipeline = WanPipeline.from_pretrained(tmp_path / "teacher")
    embeddings, _ = pipeline.encode_prompt(
        [PROMPTS[0]], do_classifier_free_guidance=False, max_sequence_length=TOKENS
    )
    number = torch.tensor([module.prompts.index(PROMPTS[0])])
    own = module._conditions(module.ema_text_encoder, number).embeddings
    torch.testing.assert_close(embeddings, own, rtol=0, atol=1e-6)
    noise, sigma = torch.randn(1, *teacher.shape), torch.tensor([1.3])
    cond = teacher.prompts([PROMPTS[0]])
    torch.testing.assert_close(
        teacher.denoiser(noise, sigma, cond), module.ema_denoiser(noise, sigma, cond), rtol=0, atol=1e-5
    )
    made = module.videos(PROMPTS[:2], torch.Generator().manual_seed(0), steps=2)
    assert made.shape == (2, 3, 5, 16, 16)


def test_a_training_is_a_function_of_its_seed() -> None:
    first, second = (trained(2).ema_denoiser.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_autoencoder_takes_many_short_crops_and_then_fewer_whole_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each from a place of its own in a clip."""
    options = replace(OPTIONS, frames=9, size=32, vae_batch=4, vae_frames=5, vae_share=1.0)
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    whole = torch.randint(256, (4, 9, 3, 32, 32), dtype=torch.uint8, generator=g)
    module = VideoTeacherModule(build_video_networks(options, WORDS), whole, PROMPTS, options, 3, seed=0)
    seen: list[torch.Tensor] = []
    encode = module.vae.encode

    def watched(videos: torch.Tensor) -> object:
        seen.append(videos)
        return encode(videos)

    monkeypatch.setattr(module.vae, "encode", watched)
    fit(module, 3)
    assert [tuple(v.shape) for v in seen] == [(4, 3, 5, 16, 16)] * 2 + [(2, 3, 9, 16, 16)]
    windows = pixels(whole).unfold(2, 5, 1).unfold(3, 16, 1).unfold(4, 16, 1)  # [n, 3, t, y, x, 5, 16, 16]
    for crop in seen[0]:
        same = (windows == crop[None, :, None, None, None]).flatten(5).all(-1).all(1)
        assert int(same.sum()) == 1
    assert len({tuple(crop.flatten().tolist()) for crop in seen[0]}) == 4


def test_the_transformer_learns_from_small_clips_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its share of the steps; then its rate warms up again and its average begins again."""
    options = replace(OPTIONS, size=32, small_sizes=[16], small_shares=[0.5], small_batches=[2], warmup=0)
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    whole = torch.randint(256, (4, 5, 3, 32, 32), dtype=torch.uint8, generator=g)
    module = VideoTeacherModule(
        build_video_networks(options, WORDS), whole, PROMPTS, options, 10, seed=0, small=[clips()]
    )
    assert module.starts == (0, 5, 7, 10)
    seen: list[tuple[tuple[int, ...], float]] = []
    loss = module._transformer_loss

    def watched(pick: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        x = module.latents(pick)
        optimizer = module.optimizers()
        assert not isinstance(optimizer, list)
        seen.append((tuple(x.shape), optimizer.param_groups[1]["lr"]))
        return loss(pick, g)

    monkeypatch.setattr(module, "_transformer_loss", watched)
    fit(module, 10)
    shapes, rates = zip(*seen, strict=True)
    assert shapes == ((2, 4, 3, 4, 4),) * 2 + ((3, 4, 3, 8, 8),) * 3
    assert rates == pytest.approx([r * options.lr for r in (1, 0.5, 1, 0.75, 0.25)])
    assert module.videos(PROMPTS[:1], g, steps=2).shape == (1, 3, 5, 32, 32)


def test_it_learns_in_half_precision_from_latents_of_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where precision is bf16-mixed by default; gradients are clipped there, too. (The
    transformer's places are in float64, which autocast does not take on a CPU.)"""
    torch.manual_seed(0)
    options = replace(OPTIONS, clip_norm=1e-3, vae_share=1.0)
    module = VideoTeacherModule(build_video_networks(options, WORDS), clips(), PROMPTS, options, 4, seed=0)
    norms: list[float] = []
    step = module.optimizer_step

    def watched(epoch: int, batch: int, optimizer: Any, closure: Any) -> None:
        step(epoch, batch, optimizer, closure)
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(module, "optimizer_step", watched)
    fit(module, 4, precision="bf16-mixed")
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)
    pick = torch.arange(2)
    with torch.autocast("cpu", torch.bfloat16):
        there = module._mean(module.clips[pick])
    assert torch.equal(there, module._mean(module.clips[pick]))


def test_the_loss_is_that_of_the_velocity() -> None:
    """‖F(x_t, 1000 t) − (ε − x)‖² at x_t = (1 − t) x + t ε, written out, of four clips of one level each."""
    module = trained(2).eval()
    o, denoiser = module.options, module.denoiser
    pick = torch.arange(3)
    x = module.latents(pick)
    assert module.stage == "transformer"
    g = torch.Generator().manual_seed(3)
    found = module._transformer_loss(pick, g)
    g = torch.Generator().manual_seed(3)
    drop = torch.rand(3, generator=g) < o.prompt_dropout
    labels = torch.where(drop, module.prompts.index(""), module.labels[pick])
    t = (torch.rand(3, generator=g, dtype=torch.float32) * 1000).long() + 1
    level = (o.shift * t / (1000 + (o.shift - 1) * t)).view(-1, 1, 1, 1, 1)
    some = x.float()
    eps = torch.randn(some.shape, generator=g)
    cond = module._conditions(module.text_encoder, labels)
    velocity = denoiser.network((1 - level) * some + level * eps, 1000 * level.flatten(), cond)
    torch.testing.assert_close(found, (velocity - (eps - some)).square().mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_preview_shows_what_is_kept_and_then_what_is_made(steps: int) -> None:
    """Rows of frames; while the autoencoder learns each clip above what it keeps of it."""
    torch.manual_seed(0)
    module = VideoTeacherModule(build_video_networks(OPTIONS, WORDS), clips(), PROMPTS, OPTIONS, 4, seed=0)
    module = fit(module, steps) if steps else module
    assert module.stage == ("transformer" if steps else "vae")
    shown = preview(module)
    assert shown.shape == ((1 if steps else 2) * 4 * SHOWN, 3, 16, 16)
    assert shown.abs().max() <= 1
    if not steps:
        torch.testing.assert_close(shown[0], pixels(clips()[:1])[0, :, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 6}, r"training\.frames: 6 is not 4 m \+ 1"),
        ({"vae_frames": 4}, r"training\.vae_frames: 4 is not 4 m \+ 1"),
        ({"size": 20}, r"training\.size: 20 is no multiple of 8"),
        ({"small_sizes": [16]}, r"training\.small_sizes: 16 is no multiple of 8 from 16 on and below .* 16"),
        ({"size": 32, "small_sizes": [20]}, r"training\.small_sizes: 20 is no multiple of 8"),
        ({"size": 32, "small_sizes": [16]}, r"training\.small_shares: \[\] for the 1 sizes"),
        (
            {"size": 32, "small_sizes": [16], "small_shares": [1.0], "small_batches": [2]},
            r"training\.small_shares: \[1\.0\]; shares above 0 with a sum below 1",
        ),
        (
            {"size": 32, "small_sizes": [16], "small_shares": [0.5], "small_batches": [0]},
            r"training\.small_batches: \[0\]; at least 1",
        ),
        ({"width": 21}, r"training\.width: 21 among training\.heads, 1: a head has an even number.*give 20"),
        ({"width": 24, "heads": 6}, r"training\.width: 24 among training\.heads, 6: .* from 6 on; give 36"),
        ({"text_width": 12}, r"training\.text_width: 12 is no multiple of 8"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_video_networks(replace(OPTIONS, **change), WORDS)
