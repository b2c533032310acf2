"""Pictures ↔ x against what diffusers' pipelines encode and decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    LCMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    WanVideoToVideoPipeline,
)

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.teachers.pipelines.codecs import Pixels
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.tiny_pipelines import SIZES

TeacherOf, PipelineOf = Callable[..., TextTeacher], Callable[..., Any]
LATENT = ["sd", "sdxl", "sd3", "flux", "pixart_sigma", "wan"]


@pytest.mark.parametrize("name", LATENT)
def test_decoding_is_the_pipelines(name: str, teacher_of: TeacherOf, pipeline_of: PipelineOf) -> None:
    """What a run of two steps ends with, as latents and as a picture."""
    teacher, pipeline = teacher_of(name), pipeline_of(name)
    height, width = teacher.size[-2:]
    call: Any = {"num_inference_steps": 2, "height": height, "width": width}
    if name == "wan":
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(50)
        call |= {"num_frames": teacher.size[0]}

    def made(kind: str) -> Any:
        result = pipeline("a cube", generator=torch.Generator().manual_seed(0), output_type=kind, **call)
        return result.frames if name == "wan" else result.images

    x = made("latent")
    if name == "flux":
        x = pipeline._unpack_latents(x, height, width, pipeline.vae_scale_factor)
    pictures = (teacher.decode(x) / 2 + 0.5).clamp(0, 1)
    exact = torch.as_tensor(np.asarray(made("np")))  # channels last
    torch.testing.assert_close(pictures.movedim(1, -1), exact, rtol=0, atol=2e-6)
    assert exact.std() > 0.01


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "wan"])
def test_encoding_is_the_pipelines(name: str, teacher_of: TeacherOf, pipeline_of: PipelineOf) -> None:
    """x of pictures by the pipelines that begin with one, at a noise level of 0, from the same generator."""
    teacher, pipeline = teacher_of(name), pipeline_of(name)
    pictures = torch.rand(1, 3, *teacher.size, generator=stream("p")) * 2 - 1
    found = teacher.encode(pictures, torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    parts = pipeline.components
    if name == "wan":
        other = WanVideoToVideoPipeline(**{k: v for k, v in parts.items() if not k.endswith("_2")})
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (
            other.vae.config.latents_mean, other.vae.config.latents_std
        ))  # fmt: skip
        exact = (other.vae.encode(pictures).latent_dist.sample(g) - mean) / std
    elif name == "sd3":
        kept = {k: v for k, v in parts.items() if k not in ("image_encoder", "feature_extractor")}
        other = StableDiffusion3Img2ImgPipeline(**kept)
        other.scheduler.scale_noise = lambda x, t, noise: x
        exact = other.prepare_latents(pictures, None, 1, 1, torch.float32, "cpu", g)
    elif name == "flux":
        exact = FluxImg2ImgPipeline(**parts)._encode_vae_image(pictures, g)
    else:
        parts["scheduler"] = LCMScheduler()  # whose add_noise is replaced
        parts["scheduler"].add_noise = lambda x, noise, t: x
        if name == "sd":
            other = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        else:
            other = StableDiffusionXLImg2ImgPipeline(**parts)
        exact = other.prepare_latents(pictures, torch.tensor([1]), 1, 1, torch.float32, "cpu", g)
    torch.testing.assert_close(found, exact.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart_sigma", "wan"])
def test_a_picture_passes_through_its_gradient(name: str, teacher_of: TeacherOf) -> None:
    teacher = teacher_of(name)
    pictures = torch.rand(1, 3, *teacher.size, generator=stream("p")).requires_grad_()
    x = teacher.encode(pictures, stream("e"))
    assert x.shape == (1, *teacher.shape)
    assert torch.autograd.grad(x.square().sum(), pictures)[0].abs().sum() > 0
    assert teacher.decode(x.detach()).shape == pictures.shape


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3), (81, 21)])
def test_frames_of_a_clip(frames: int, latents: int, teacher_of: TeacherOf) -> None:
    codec: Any = teacher_of("wan").codec
    assert codec.shape((frames, 16, 24)) == (4, latents, 4, 6)
    if frames < 10:
        clip = torch.rand(1, 3, frames, 8, 8, generator=stream("c"))
        assert codec.encode(clip, stream("e")).shape == (1, 4, latents, 2, 2)


@pytest.mark.parametrize("frames", [0, 2, 3, 4, 6, 80])
def test_frames_that_the_autoencoder_would_drop(frames: int, teacher_of: TeacherOf) -> None:
    with pytest.raises(UserError, match=r"^teacher\.size: ") as error:
        teacher_of("wan").codec.shape((frames, 16, 16))
    assert "4 m + 1" in str(error.value) or frames == 0


def test_latents_of_a_clip_have_the_statistics_of_the_config(teacher_of: TeacherOf) -> None:
    """decode(encode) of the mean: (l − mean)/std and back."""
    codec: Any = teacher_of("wan").codec
    assert codec.mean.flatten().tolist() == pytest.approx([0.1, -0.2, 0.3, 0.0])
    assert codec.std.flatten().tolist() == pytest.approx([1.5, 2.0, 0.7, 1.1])
    x = torch.zeros(1, 4, 2, 4, 4)
    with torch.no_grad():
        exact = codec.vae.decode(codec.mean.expand_as(x)).sample
    torch.testing.assert_close(codec.decode(x), exact)
    assert not codec.state_dict().keys() & {"mean", "std"}


def test_pixels_are_themselves() -> None:
    x = torch.rand(2, 3, 4, 6)
    assert Pixels().encode(x, stream("e")) is x
    assert Pixels().decode(x) is x
    assert Pixels().shape((4, 6)) == (3, 4, 6)


def test_an_autoencoder_has_full_precision(folder_of: Callable[[str], Path]) -> None:
    """In float16 many overflow: beside a network in half precision pictures are encoded as ever."""
    for name in ("sd3", "wan"):
        exact = load_text_teacher(folder_of(name), SIZES.get(name, ()))
        pictures = torch.rand(1, 3, *exact.size, generator=stream("p"))
        x = exact.encode(pictures, stream("e"))
        for dtype in (torch.bfloat16, torch.float16):
            teacher = load_text_teacher(folder_of(name), SIZES.get(name, ()), dtype=dtype)
            assert torch.equal(teacher.encode(pictures, stream("e")), x)
            assert torch.equal(teacher.decode(x.detach()), exact.decode(x.detach()))
