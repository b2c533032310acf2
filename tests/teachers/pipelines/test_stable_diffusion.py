"""Latent teachers from StableDiffusionPipeline folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.tiny_latent import save_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> TextTeacher:
    found = load_text_teacher(folder)
    assert isinstance(found, TextTeacher)
    return found


def test_a_saved_folder_is_a_pipeline_that_diffusers_runs(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    made = pipeline("a red torus", num_inference_steps=2, height=8, width=8, output_type="np")
    assert made.images.shape == (1, 8, 8, 3)


def test_sizes(teacher: TextTeacher) -> None:
    assert (teacher.shape, teacher.image_size) == ((4, 4, 4), 8)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_denoiser_is_the_pipelines_own_prediction(prediction: str, tmp_path: Path) -> None:
    """D(x_t, σ) against diffusers' scheduler and unet called by hand at timestep 30."""
    folder = save_tiny_pipeline(tmp_path / "sd", prediction)
    teacher = load_text_teacher(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    x, eps = torch.randn(2, 3, 4, 4, 4, generator=stream("latents"))
    cond = teacher.prompts(["a red torus", "a cube", "a blue cube, side view"])
    pipeline.scheduler.set_timesteps(50)
    sigma = teacher.schedule.table[30].float().expand(3)
    found = teacher.denoiser(x + sigma[0] * eps, sigma, cond)
    noisy = pipeline.scheduler.add_noise(x, eps, torch.tensor([30]))
    with torch.no_grad():
        out = pipeline.unet(noisy, 30, cond.embeddings, return_dict=False)[0]
        exact = pipeline.scheduler.step(out, 30, noisy).pred_original_sample
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)


def test_embeddings_are_the_pipelines(teacher: TextTeacher, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    exact, null = pipeline.encode_prompt("a red torus, side view", "cpu", 1, True)
    torch.testing.assert_close(teacher.prompts(["a red torus, side view"]).embeddings, exact)
    torch.testing.assert_close(teacher.prompts([""]).embeddings, null)


def test_guidance_goes_from_the_empty_prompt(teacher: TextTeacher) -> None:
    """ε̂_∅ + s (ε̂ − ε̂_∅), and scale 1 is the teacher itself."""
    x, sigma = torch.randn(2, 4, 4, 4, generator=stream("x")), torch.tensor([0.5, 2.0])
    cond, null = teacher.prompts(["a red cube", "a torus"]), teacher.prompts(["", ""])
    plain, empty = (teacher.denoiser(x, sigma, c) for c in (cond, null))
    found = teacher.guided(7.5)(x, sigma, cond)
    torch.testing.assert_close(found, empty + 7.5 * (plain - empty), rtol=1e-4, atol=1e-4)
    assert teacher.guided(1.0) is teacher.denoiser


def test_encoding_is_the_posterior_with_a_graph(teacher: TextTeacher) -> None:
    """Mean and spread of 3,000 samples, 4 SE; the same generator gives the same sample."""
    images = torch.rand(1, 3, 8, 8, generator=stream("i")).mul(2).sub(1).requires_grad_()
    latents = teacher.encode(images, stream("e"))
    assert latents.shape == (1, 4, 4, 4)
    assert torch.autograd.grad(latents.sum(), images)[0].abs().sum() > 0
    assert torch.equal(latents, teacher.encode(images, stream("e")))
    with torch.no_grad():
        posterior = teacher.codec.vae.encode(images).latent_dist
        many = teacher.encode(images.expand(3000, -1, -1, -1), stream("m")) / teacher.codec.scale
    assert ((many.mean(0) - posterior.mean[0]).abs() < 4.5 * posterior.std[0] / 3000**0.5).all()
    torch.testing.assert_close(many.std(0), posterior.std[0], rtol=0.07, atol=0)
    assert teacher.decode(latents.detach()).shape == (1, 3, 8, 8)


def test_prompts_outlive_their_encoder(folder: Path) -> None:
    teacher = load_text_teacher(folder)
    kept = teacher.prompts(["a red torus", ""]).embeddings
    teacher.prompts.release()
    assert teacher.prompts.text_models is None
    assert torch.equal(teacher.prompts(["", "a red torus"]).embeddings, kept.flip(0))
    with pytest.raises(UserError, match="'a cube' was not encoded before"):
        teacher.prompts(["a cube"])


def test_unknown_words_are_named(teacher: TextTeacher) -> None:
    assert teacher.prompts.unknown_words("A red torus, side view") == []
    assert teacher.prompts.unknown_words("a zebra on a torus; a zebra") == ["zebra", "on"]


def test_the_end_of_a_long_prompt_is_named(teacher: TextTeacher) -> None:
    """Ten tokens, of which two are the ends."""
    cut = teacher.prompts.cut_text
    assert cut("a red torus, side view") == ""
    assert cut("a red torus a red torus a red") == ""
    assert cut("a red torus a red torus a red cube") == "cube"
    assert cut("a red torus a red torus a red torus, side view") == "torus, side view"
    prompts = ["a red torus a red torus a red cube", "a red torus a red torus a red torus"]
    seen = teacher.prompts(prompts).embeddings
    assert torch.equal(seen[0], seen[1])
