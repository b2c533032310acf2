"""The training script in diffusers' style."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from tests.helpers.examples import load
from tests.helpers.small import ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline

SHAPES = ROOT / "checkpoints/shapes-teacher"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("integrations/diffusers/train_dmd.py")


def run(script: ModuleType, teacher: Path, out: Path, *words: str) -> StableDiffusionPipeline:
    """Trains, and loads the student as anyone would."""
    out.mkdir()
    (out / "prompts.txt").write_text("a red torus\na blue cube\n")
    known = ["--pretrained_model_name_or_path", teacher, "--prompts_file", out / "prompts.txt"]
    script.main(script.parse_args([*map(str, known), "--output_dir", str(out / "student"), *words]))
    AcceleratorState._reset_state(reset_partial_state=True)
    return StableDiffusionPipeline.from_pretrained(out / "student", safety_checker=None)


def published_x0(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, x_t: Tensor, t: Tensor, text: Tensor
) -> Tensor:
    """x̂ as diffusers' own scheduler makes it of the UNet's output."""
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    out = unet(x_t, t, text).sample
    each = [scheduler.step(out[i : i + 1], int(t[i]), x_t[i : i + 1]) for i in range(len(t))]
    return torch.cat([one.pred_original_sample for one in each])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_update_is_the_published_one(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prediction: str
) -> None:
    """At K = 1: one step of plain gradient descent moves the student by the written-out gradient of DMD, to
    1e-6 of its largest entry in float32, with guidance, at the same z, t and ε."""
    R, guidance, rate = 3, 2.0, 1e3  # a step so large that the weights before it round nothing
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)
    teacher = save_tiny_pipeline(tmp_path / "sd", prediction)
    words = f"--max_train_steps 1 --fake_steps 0 --draws 1 --strategy iid --train_batch_size {R} "
    words += f"--guidance_scale {guidance} --learning_rate {rate}"
    monkeypatch.setattr(script.random, "choices", lambda prompts, k: (prompts * k)[:k])
    student = run(script, teacher, tmp_path / "out", *words.split()).unet

    pipe = StableDiffusionPipeline.from_pretrained(teacher, safety_checker=None)
    scheduler, g = pipe.scheduler, stream(0, 0)
    text, none = pipe.encode_prompt(["a red torus", "a blue cube", "a red torus"], "cpu", 1, True)
    z = torch.randn(R, 4, 4, 4, generator=g)
    draws = NoiseLevelSampler(Proposal.uniform(), "iid").draw(R, 1, (4, 4, 4), g)
    x = published_x0(pipe.unet, scheduler, z, torch.full((R,), 49), text)
    t, eps = (50 * (0.02 + 0.96 * draws.u[:, 0])).long(), draws.eps[:, 0]
    with torch.no_grad():
        x_t = scheduler.add_noise(x, eps, t)
        fake, off = (published_x0(pipe.unet, scheduler, x_t, t, c) for c in (text, none))
        real = off + guidance * (fake - off)  # the fake score is the teacher yet
        r = (fake - real) / ((x - real).abs().mean((1, 2, 3), keepdim=True) + 1e-6)
    gradients = torch.autograd.grad((x * r).sum() / R, [*pipe.unet.parameters()])
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for before, after, gradient in zip(pipe.unet.parameters(), student.parameters(), gradients, strict=True):
        assert ((before - after) / rate - gradient).abs().max() < 1e-6 * largest


@pytest.mark.parametrize("last", [-1, 30])
def test_the_student_is_a_pipeline_of_one_step(script: ModuleType, tmp_path: Path, last: int) -> None:
    teacher = save_tiny_pipeline(tmp_path / "sd")
    words = f"--max_train_steps 3 --fake_steps 2 --student_timestep {last} --learning_rate 1e-3"
    pipe = run(script, teacher, tmp_path / "out", *words.split())
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    known: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "latent"}
    prompts = ["a red torus", "a blue cube"]
    made = pipe(prompts, latents=z, **known).images
    scheduler = StableDiffusionPipeline.from_pretrained(teacher, safety_checker=None).scheduler
    text, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    with torch.no_grad():
        expected = script.denoise(pipe.unet, scheduler, z, torch.full((2,), last % 50), text)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_it_trains_the_shipped_miniature(script: ModuleType, tmp_path: Path) -> None:
    """Eight updates move every tensor of the student, and its picture is finite and not flat."""
    words = "--max_train_steps 8 --fake_steps 1 --draws 2 --train_batch_size 2 --learning_rate 1e-4"
    student = run(script, SHAPES, tmp_path / "out", *words.split(), "--student_timestep", "799")
    teacher = StableDiffusionPipeline.from_pretrained(SHAPES, safety_checker=None)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(student.unet.parameters(), teacher.unet.parameters(), strict=True)
    ]
    assert all(moved)
    image = student("a red torus", num_inference_steps=1, guidance_scale=0, output_type="pt").images
    assert image.isfinite().all()
    assert image.std() > 0.05
