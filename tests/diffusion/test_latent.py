"""Latent teachers from StableDiffusionPipeline folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from carv_distill.carv import stream
from carv_distill.diffusion.latent import LatentTeacher
from carv_distill.diffusion.pipelines import load_text_teacher
from carv_distill.errors import UserError
from tests.diffusion.tiny_latent import save_tiny_pipeline


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> LatentTeacher:
    found = load_text_teacher(folder)
    assert isinstance(found, LatentTeacher)
    return found


def test_a_saved_folder_is_a_pipeline_that_diffusers_runs(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    made = pipeline("a red torus", num_inference_steps=2, height=8, width=8, output_type="np")
    assert made.images.shape == (1, 8, 8, 3)


def test_sizes(teacher: LatentTeacher) -> None:
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
        out = pipeline.unet(noisy, 30, cond, return_dict=False)[0]
        exact = pipeline.scheduler.step(out, 30, noisy).pred_original_sample
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)


def test_embeddings_are_the_pipelines(teacher: LatentTeacher, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    exact, null = pipeline.encode_prompt("a red torus, side view", "cpu", 1, True)
    torch.testing.assert_close(teacher.prompts(["a red torus, side view"]), exact)
    torch.testing.assert_close(teacher.prompts([""]), null)


def test_guidance_goes_from_the_empty_prompt(teacher: LatentTeacher) -> None:
    """ε̂_∅ + s (ε̂ − ε̂_∅), and scale 1 is the teacher itself."""
    x, sigma = torch.randn(2, 4, 4, 4, generator=stream("x")), torch.tensor([0.5, 2.0])
    cond, null = teacher.prompts(["a red cube", "a torus"]), teacher.prompts(["", ""])
    plain, empty = (teacher.denoiser(x, sigma, c) for c in (cond, null))
    found = teacher.guided(7.5)(x, sigma, cond)
    torch.testing.assert_close(found, empty + 7.5 * (plain - empty), rtol=1e-4, atol=1e-4)
    assert teacher.guided(1.0) is teacher.denoiser


def test_encoding_is_the_posterior_with_a_graph(teacher: LatentTeacher) -> None:
    """Mean and spread of 3,000 samples, 4 SE; the same generator gives the same sample."""
    images = torch.rand(1, 3, 8, 8, generator=stream("i")).mul(2).sub(1).requires_grad_()
    latents = teacher.encode(images, stream("e"))
    assert latents.shape == (1, 4, 4, 4)
    assert torch.autograd.grad(latents.sum(), images)[0].abs().sum() > 0
    assert torch.equal(latents, teacher.encode(images, stream("e")))
    with torch.no_grad():
        posterior = teacher.vae.encode(images).latent_dist
        many = (
            teacher.encode(images.expand(3000, -1, -1, -1), stream("m")) / teacher.vae.config.scaling_factor
        )
    assert ((many.mean(0) - posterior.mean[0]).abs() < 4.5 * posterior.std[0] / 3000**0.5).all()
    torch.testing.assert_close(many.std(0), posterior.std[0], rtol=0.07, atol=0)
    assert teacher.decode(latents.detach()).shape == (1, 3, 8, 8)


def test_prompts_outlive_their_encoder(folder: Path) -> None:
    teacher = load_text_teacher(folder)
    kept = teacher.prompts(["a red torus", ""])
    teacher.prompts.release()
    assert teacher.prompts.text_model is None
    assert torch.equal(teacher.prompts(["", "a red torus"]), kept.flip(0))
    with pytest.raises(UserError, match="'a cube' was not encoded before"):
        teacher.prompts(["a cube"])


def test_unknown_words_are_named(teacher: LatentTeacher) -> None:
    assert teacher.prompts.unknown_words("A red torus, side view") == []
    assert teacher.prompts.unknown_words("a zebra on a torus; a zebra") == ["zebra", "on"]


@pytest.mark.parametrize("part", ["vae", "unet", "tokenizer", "text_encoder"])
def test_a_missing_part_is_named(part: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "sd")
    shutil.rmtree(copy / part)
    with pytest.raises(UserError, match=f"lacks its part {part}/"):
        load_text_teacher(copy)


def test_what_is_no_pipeline_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        load_text_teacher(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "sd")
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="unet has no readable UNet2DConditionModel"):
        load_text_teacher(copy)


def test_a_network_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    for part, weight in (("unet/diffusion_pytorch_model", "conv_in.bias"), ("text_encoder/model", None)):
        copy = shutil.copytree(folder, tmp_path / Path(part).name)
        file = copy / f"{part}.safetensors"
        state = load_file(file)
        state.pop(weight or min(state))
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"{Path(part).parent}.* lacks 1 of the network's weights"):
            load_text_teacher(copy)


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "sd")
    weights = copy / "text_encoder/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(UserError, match="text_encoder has no readable CLIPTextModel"):
        load_text_teacher(copy)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "sd")
    (copy / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer lacks its vocabulary: none of .*tokenizer\.json"):
        load_text_teacher(copy)


def test_another_pipeline_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "sd")
    rewrite(copy / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(UserError, match=r"_class_name 'StableDiffusionXLPipeline' is not "):
        load_text_teacher(copy)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("unet/config.json", {"in_channels": 9}, "in_channels 9 is not 4"),
        ("unet/config.json", {"out_channels": 5}, r"out_channels 5 is not one of 4, 8 \(learned variances\)"),
    ],
)
def test_channels_that_do_not_fit_are_named(
    file: str, changes: dict[str, int], said: str, folder: Path, tmp_path: Path
) -> None:
    """With weights of that shape, so that nothing but the channels is wrong."""
    copy = shutil.copytree(folder, tmp_path / "sd")
    rewrite(copy / file, **changes)
    UNet2DConditionModel.from_config(copy / "unet").save_pretrained(copy / "unet")
    with pytest.raises(UserError, match=said):
        load_text_teacher(copy)
