"""D(x_t, σ, condition) of every family against the denoising steps of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
)
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.parametrisation import FlowPreconditioning
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.sampler import ddim_sample
from tests.helpers.tiny_pipelines import EVERY, save_pixart, save_sd3

F64 = torch.float64
PROMPTS = ["a red torus", "a blue cube, side view"]


@dataclass
class Steps:
    """What a pipeline hands to its scheduler in each step, and gets back."""

    timesteps: list[Tensor] = field(default_factory=list)
    sigmas: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    @contextmanager
    def record(self, scheduler: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        step = scheduler.step

        def recorded(output: Tensor, t: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = step(output, t, sample, *args, **kwargs)
            self.timesteps.append(torch.as_tensor(t))
            self.samples.append(change(sample))
            self.outputs.append(change(output))
            kept = change(result[0] if isinstance(result, tuple) else result.prev_sample)
            self.results.append(kept)
            return result

        scheduler.step = recorded
        try:
            yield
        finally:
            scheduler.step = step


def run(pipeline: Any, teacher: TextTeacher, prompts: Sequence[str], steps: int, **call: Any) -> Steps:
    """The pipeline's own call from z of unit variance, its steps recorded."""
    found, shape = Steps(), teacher.shape
    z = torch.randn(len(prompts), *shape, generator=stream("z"), dtype=pipeline.dtype)
    height, width = teacher.size[-2:]
    call |= {"height": height, "width": width, "num_inference_steps": steps}
    name, change = type(pipeline).__name__, lambda x: x
    if name == "IFPipeline":
        call |= {"generator": torch.Generator().manual_seed(3), "output_type": "pt"}
    elif name == "FluxPipeline":
        call |= {"latents": pipeline._pack_latents(z, len(z), *shape), "output_type": "latent"}
        change = lambda x: pipeline._unpack_latents(x, height, width, pipeline.vae_scale_factor)  # noqa: E731
    else:
        call |= {"latents": z, "output_type": "latent"}
    if name == "WanPipeline":
        call["num_frames"] = teacher.size[0]
    if name.startswith("PixArt"):
        call |= {"clean_caption": False}
    with found.record(pipeline.scheduler, change):
        pipeline(list(prompts), **call)
    assert len(found.outputs) == steps
    return found


def close(found: Tensor, exact: Tensor, tolerance: float = 1e-6) -> None:
    """Within a share of the greatest entry: networks in float64, but diffusers' schedulers in float32."""
    error = (found - exact).abs().max() / exact.abs().max()
    assert error < tolerance, float(error)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", [*EVERY])
def test_f_and_the_denoised_are_the_pipelines(
    name: str, guidance: float, teacher_of: Callable[[str], TextTeacher], pipeline_of: Callable[[str], Any]
) -> None:
    """F with guidance and x̂ at every step of a run of three, the first one at σ = ∞ for flows."""
    teacher, pipeline = teacher_of(name, F64), pipeline_of(name, F64)
    if name == "wan":  # UniPC rounds the timesteps that it tells the network: see below
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(50, shift=3.0)
    call: dict[str, Any] = {"guidance_scale": guidance}
    if name == "flux_schnell":  # a network that is not told a scale is guided as all others
        call = {"true_cfg_scale": guidance, "negative_prompt": ["", ""]}
    steps = run(pipeline, teacher, PROMPTS, 3, **call)
    denoiser = teacher.guided(guidance)
    cond = teacher.prompts(PROMPTS)
    if cond.guidance is not None:
        cond = Condition(cond.embeddings, pooled=cond.pooled, guidance=torch.full((2,), guidance))
    flow = isinstance(denoiser.precondition, FlowPreconditioning)
    for i in range(3):
        t, y, out = steps.timesteps[i], steps.samples[i], steps.outputs[i][:, : teacher.shape[0]]
        if flow:
            share = t.double() / teacher.schedule.timesteps
            level = (share / (1 - share)).expand(2)
            exact = y - share * out
        else:
            level = teacher.schedule.table[int(t)].expand(2)
            alpha, beta = 1 / (1 + level[0] ** 2) ** 0.5, level[0] / (1 + level[0] ** 2) ** 0.5
            y = y * alpha if name == "sdxl" else y  # Euler's x + σ ε
            is_v = pipeline.scheduler.config.prediction_type == "v_prediction"
            exact = alpha * y - beta * out if is_v else (y - beta * out) / alpha
        c = denoiser.coefficients(y, level)
        with torch.no_grad():
            close(denoiser.raw(y, c, cond), out)
            close(denoiser.of_input(y, c, cond), exact)
            if level[0].isfinite():
                close(denoiser(y / c.signal, level, cond), exact)
            else:
                close(denoiser.of_noise(y, level, cond), exact)
                assert torch.equal(exact, y - out)


def test_a_negative_prompt_takes_the_place_of_none(
    teacher_of: Callable[[str], TextTeacher], pipeline_of: Callable[[str], Any]
) -> None:
    """Of each kind of embedding one: CLIP's, two with zeros for no prompt, three, a masked T5's."""
    for name in ("sd", "sdxl", "sd3", "pixart_sigma"):
        teacher = teacher_of(name, F64)
        negative: Any = "blue cube" if name == "pixart_sigma" else ["blue cube"] * 2
        steps = run(pipeline_of(name, F64), teacher, PROMPTS, 1, guidance_scale=3.0, negative_prompt=negative)
        t, y = steps.timesteps[0], steps.samples[0]
        level = teacher.schedule.sigma_at((t.long() - 1) if name == "sd3" else t.long(), y).expand(2)
        guided = teacher.guided(3.0, "blue cube")
        c = guided.coefficients(y, level)
        y = y * c.signal if name == "sdxl" else y
        with torch.no_grad():
            close(guided.raw(y, c, teacher.prompts(PROMPTS)), steps.outputs[0])
            plain = teacher.guided(3.0).raw(y, c, teacher.prompts(PROMPTS))
        assert (plain - steps.outputs[0]).abs().max() > 1e-3


def test_wan_with_its_own_scheduler(
    teacher_of: Callable[[str], TextTeacher], pipeline_of: Callable[[str], Any]
) -> None:
    """UniPC on flow levels tells the network whole timesteps, ⌊T t⌋, and its first level is 1 − 1e-6: F at
    what it tells, and x̂ at its levels; ours differ from what it tells by less than 1."""
    teacher, pipeline = teacher_of("wan", F64), pipeline_of("wan", F64)
    steps = run(pipeline, teacher, PROMPTS, 4, guidance_scale=4.0)
    guided, cond = teacher.guided(4.0), teacher.prompts(PROMPTS)
    for i in range(4):
        share, y = pipeline.scheduler.sigmas[i].double(), steps.samples[i]
        level = (share / (1 - share)).expand(2)
        c = guided.coefficients(y, level)
        told = steps.timesteps[i].expand(2)
        assert ((c.c_noise - told >= -1e-3) & (c.c_noise - told < 1)).all()
        with torch.no_grad():
            close(guided.raw(y, c._replace(c_noise=told), cond), steps.outputs[i])
            found = guided.of_input(y, c._replace(c_noise=told), cond)
        close(found, y - share.float() * steps.outputs[i])


def test_pixart_alpha_of_1024_pixels_is_told_the_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Height, width and their ratio, where the network has a place for them."""
    for autoencoder_factor in (8, 4):
        folder = save_pixart(
            tmp_path_factory.mktemp("alpha"), PixArtAlphaPipeline, 128, factor=autoencoder_factor
        )
        teacher = load_text_teacher(folder, (64, 96), dtype=F64)
        pipeline = DiffusionPipeline.from_pretrained(folder).to(F64)
        call: Any = {"guidance_scale": 2.0, "use_resolution_binning": False}
        steps = run(pipeline, teacher, PROMPTS, 2, **call)
        y = steps.samples[0]
        level = teacher.schedule.sigma_at(steps.timesteps[0].long(), y).expand(2)
        guided = teacher.guided(2.0)
        with torch.no_grad():
            found = guided.raw(y, guided.coefficients(y, level), teacher.prompts(PROMPTS))
        close(found, steps.outputs[0])


@pytest.mark.parametrize("count", [1, 5, 10])
@pytest.mark.parametrize("name", ["sd", "sd_v", "flux", "flux_schnell"])
def test_many_steps_are_the_pipelines(
    name: str, count: int, teacher_of: Callable[[str], TextTeacher], pipeline_of: Callable[[str], Any]
) -> None:
    """Trailing DDIM, and Euler's steps on a flow shifted by the picture's size, from the same z."""
    teacher, pipeline = teacher_of(name, F64), pipeline_of(name, F64)
    if name.startswith("sd"):
        config = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **config)
    steps = run(pipeline, teacher, PROMPTS, count, guidance_scale=4.0 if name != "flux" else 3.5)
    scale = 4.0 if name.startswith("sd") else 1.0
    z = torch.randn(2, *teacher.shape, generator=stream("z"), dtype=F64)
    found = ddim_sample(teacher.guided(scale), teacher.schedule, z, teacher.prompts(PROMPTS), count)
    close(found, steps.results[-1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_eulers_steps_on_a_fixed_shift(shift: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SD3 from its levels t = 1, …: those of the pipeline's own call, handed to it, as its set_timesteps
    shifts the least level twice."""
    folder = save_sd3(tmp_path_factory.mktemp("sd3"), shift=shift)
    teacher, pipeline = (
        load_text_teacher(folder, dtype=F64),
        DiffusionPipeline.from_pretrained(folder).to(F64),
    )
    steps = run(pipeline, teacher, PROMPTS, 5, guidance_scale=4.0, sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])
    z = torch.randn(2, *teacher.shape, generator=stream("z"), dtype=F64)
    found = ddim_sample(teacher.guided(4.0), teacher.schedule, z, teacher.prompts(PROMPTS), 5)
    close(found, steps.results[-1])
