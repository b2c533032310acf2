"""Pixel teachers from IFPipeline folders."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline

from carv_distill.carv import stream
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.teachers.scheduler import parametrisation
from tests.helpers.tiny_pixel import save_tiny_if_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_if_pipeline(tmp_path_factory.mktemp("if") / "tiny")


@pytest.fixture
def teacher(folder: Path) -> TextTeacher:
    found = load_text_teacher(folder)
    assert isinstance(found, TextTeacher)
    return found


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> IFPipeline:
    return IFPipeline.from_pretrained(folder, safety_checker=None, watermarker=None)


def test_sizes(teacher: TextTeacher) -> None:
    assert (teacher.shape, teacher.image_size) == ((3, 8, 8), 8)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())


@pytest.mark.parametrize("t", [0, 30, 49])
def test_the_predicted_noise_is_the_pipelines_own(t: int, teacher: TextTeacher, pipeline: IFPipeline) -> None:
    """First three channels of diffusers' unet on its own scheduler's √ᾱ x + √(1 − ᾱ) ε."""
    x, eps = torch.randn(2, 3, 3, 8, 8, generator=stream("pixels"))
    prompts = ["a red torus", "a cube", "a blue cube, side view"]
    sigma = teacher.schedule.table[t].float().expand(3)
    found = teacher.denoiser.predict_noise(x, sigma, eps, teacher.prompts(prompts))
    cond, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    with torch.no_grad():
        out = pipeline.unet(
            pipeline.scheduler.add_noise(x, eps, torch.tensor([t])), t, cond, return_dict=False
        )[0]
    assert out.shape[1] == 6
    torch.testing.assert_close(found, out[:, :3], rtol=1e-4, atol=1e-5)


def test_learned_variances_are_dropped(teacher: TextTeacher) -> None:
    """Their three channels may say what they like, under guidance too."""
    x, sigma = torch.randn(2, 3, 8, 8, generator=stream("x")), torch.tensor([0.5, 2.0])
    cond = teacher.prompts(["a red cube", "a torus"])
    guided = teacher.guided(20.0)
    before = guided(x, sigma, cond)
    last = teacher.network.model.conv_out
    with torch.no_grad():
        last.weight[3:].add_(1.0)
        last.bias[3:].fill_(7.0)
    assert before.shape == x.shape
    assert torch.equal(guided(x, sigma, cond), before)
    with torch.no_grad():
        last.bias[:3].add_(1.0)
    assert not torch.allclose(guided(x, sigma, cond), before)


def test_embeddings_are_the_pipelines(teacher: TextTeacher, pipeline: IFPipeline) -> None:
    """Of DeepFloyd's 77 tokens, in lower case, those beyond are cut."""
    for prompt in ("A Red torus, side view ", "red " * 100):
        exact, null = pipeline.encode_prompt(prompt)
        assert exact.shape == (1, 77, 12)
        torch.testing.assert_close(teacher.prompts([prompt]).embeddings, exact)
    torch.testing.assert_close(teacher.prompts([""]).embeddings, null)


def test_padding_is_masked(teacher: TextTeacher) -> None:
    """A prompt's own states are those of the prompt without any padding."""
    ids = teacher.prompts.tokenizers["tokenizer"]("a red torus", return_tensors="pt").input_ids
    assert ids.shape == (1, 4)
    assert teacher.prompts.text_models is not None
    text = teacher.prompts.text_models["text_encoder"]
    with torch.no_grad():
        alone = text(ids).last_hidden_state
        unmasked = text(torch.nn.functional.pad(ids, (0, 73))).last_hidden_state
    torch.testing.assert_close(
        teacher.prompts(["a red torus"]).embeddings[:, :4], alone, rtol=1e-4, atol=1e-5
    )
    assert (unmasked[:, :4] - alone).abs().max() > 1e-2


def test_encoding_is_the_identity(teacher: TextTeacher) -> None:
    images = torch.rand(2, 3, 8, 8, generator=stream("i")).mul(2).sub(1).requires_grad_()
    g = stream("e")
    state = g.get_state()
    assert torch.equal(teacher.encode(images, g), images)
    assert torch.equal(g.get_state(), state)
    (pulled,) = torch.autograd.grad(teacher.encode(images, g).sum(), images)
    assert torch.equal(pulled, torch.ones_like(images))


def test_unknown_words_are_those_without_pieces(teacher: TextTeacher) -> None:
    assert teacher.prompts.unknown_words("A red torus, side view") == []
    assert teacher.prompts.unknown_words("cubes") == []  # in pieces, yet all of it is seen
    assert teacher.prompts.unknown_words("a 龙 on a torus; 🐉 a 龙") == ["龙", "on", ";", "🐉"]


def test_the_schedule_is_deepfloyds(folder: Path) -> None:
    """ᾱ_t = Π (1 − β), β_t = min(1 − f(t + 1)/f(t), 0.999), f(t) = cos²((t/T + 0.008)/1.008 · π/2); what the
    sampler does with pictures and variances (its own settings in DeepFloyd-IF's file) has no part in it."""
    config = {
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.95,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.5,
        "thresholding": True,
        "trained_betas": None,
        "variance_type": "learned_range",
    }
    schedule, _ = parametrisation(config, folder)
    assert isinstance(schedule, VPSchedule)
    t = torch.arange(1001, dtype=torch.float64) / 1000
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    kept = torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0)
    torch.testing.assert_close(schedule.table, ((1 - kept) / kept).sqrt(), rtol=1e-3, atol=0)
    plain = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    assert schedule == VPSchedule(plain.betas)


def test_the_end_of_a_long_prompt_is_named(teacher: TextTeacher) -> None:
    """77 tokens, of which the last is the end."""
    assert teacher.prompts.cut_text("a red torus, side view") == ""
    long = " ".join(["a red torus"] * 60)
    cut = teacher.prompts.cut_text(f"{long} CUBE")
    assert cut.endswith("cube")
    assert teacher.prompts.length == 77
    assert teacher.prompts.alike([f"{long} CUBE", f"{long} torus", "CUBE"]) == [[0, 1], [2]]
