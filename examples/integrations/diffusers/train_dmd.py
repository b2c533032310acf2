"""Distils a Stable Diffusion into one step by distribution matching (DMD), with K re-noisings of each sample.

accelerate launch train_dmd.py --pretrained_model_name_or_path FOLDER --prompts_file prompts.txt
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, LCMScheduler, StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from carv_distill.carv import NoiseLevelSampler, Proposal, Residual, average_residual, stream, surrogate


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--prompts_file", type=Path, required=True, help="one prompt a line")
    parser.add_argument("--output_dir", default="dmd-student", help="the student, a pipeline")
    parser.add_argument("--train_batch_size", type=int, default=4, help="R, samples of a process")
    parser.add_argument("--draws", type=int, default=4, help="K, re-noisings of each sample")
    parser.add_argument("--strategy", default="stratified", help="how their timesteps are spread")
    parser.add_argument("--chunk", type=int, help="re-noisings per call of a UNet; all by default")
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="of the teacher")
    parser.add_argument("--student_timestep", type=int, default=-1, help="of its one step")
    parser.add_argument("--fake_steps", type=int, default=5, help="fake-score updates per student update")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--max_train_steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def denoise(unet: Any, scheduler: DDPMScheduler, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """x̂ [n, …] of ε- or v-prediction."""
    a = scheduler.alphas_cumprod.to(x_t)[t].view(-1, 1, 1, 1)
    out = unet(x_t, t, text).sample
    if scheduler.config.prediction_type == "v_prediction":
        return a.sqrt() * x_t - (1 - a).sqrt() * out
    return (x_t - (1 - a).sqrt() * out) / a.sqrt()


def dmd_residual(
    fake: Any, teacher: Any, scheduler: DDPMScheduler, text: Tensor, none: Tensor, guidance: float
) -> Residual:
    """r = (x̂_fake − x̂_teacher)/(mean|x − x̂_teacher| + 10⁻⁶) of samples with the prompts `text`, on timesteps
    from 2 to 98 % of all."""

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        t = ((0.02 + 0.96 * u) * scheduler.config.num_train_timesteps).long()
        x_t = scheduler.add_noise(x, eps, t)
        plain = denoise(teacher, scheduler, x_t, t, none[index])
        real = plain + guidance * (denoise(teacher, scheduler, x_t, t, text[index]) - plain)
        size = (x - real).abs().mean((1, 2, 3), keepdim=True) + 1e-6
        return (denoise(fake, scheduler, x_t, t, text[index]) - real) / size

    return residual


def denoising_loss(unet: Any, scheduler: DDPMScheduler, x: Tensor, text: Tensor) -> Tensor:
    """What a UNet is trained by: its prediction's mean squared error at uniform timesteps."""
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x),), device=x.device)
    eps = torch.randn_like(x)
    velocity = scheduler.config.prediction_type == "v_prediction"
    ideal = scheduler.get_velocity(x, eps, t) if velocity else eps
    return F.mse_loss(unet(scheduler.add_noise(x, eps, t), t, text).sample, ideal)


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator()
    set_seed(args.seed, device_specific=True)
    sampler = NoiseLevelSampler(Proposal.uniform(), args.strategy)
    prompts = args.prompts_file.read_text().strip().splitlines()

    pipe = StableDiffusionPipeline.from_pretrained(
        args.pretrained_model_name_or_path, safety_checker=None, trust_remote_code=False
    )
    pipe.text_encoder.to(accelerator.device).requires_grad_(False)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    last = range(scheduler.config.num_train_timesteps)[args.student_timestep]
    teacher = pipe.unet.requires_grad_(False)
    student, fake = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
    of_student, of_fake = (torch.optim.AdamW(n.parameters(), args.learning_rate) for n in (student, fake))
    prepared = accelerator.prepare(teacher, student, fake, of_student, of_fake)
    teacher, student, fake, of_student, of_fake = prepared
    shape = pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2
    generator = stream(args.seed, accelerator.process_index, device=accelerator.device)

    def generate() -> tuple[Tensor, Tensor, Tensor]:
        """R samples, one step from noise, with the embeddings of their prompts and of none."""
        some = random.choices(prompts, k=args.train_batch_size)
        text, none = pipe.encode_prompt(some, accelerator.device, 1, True)
        z = torch.randn(len(some), *shape, generator=generator, device=accelerator.device)
        return denoise(student, scheduler, z, torch.full((len(z),), last, device=z.device), text), text, none

    def descend(optimizer: Any, loss: Tensor) -> None:
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    for _ in (bar := tqdm(range(args.max_train_steps), disable=not accelerator.is_main_process)):
        for _ in range(args.fake_steps):
            with torch.no_grad():
                x, text, _ = generate()
            descend(of_fake, denoising_loss(fake, scheduler, x, text))
        x, text, none = generate()
        residual = dmd_residual(fake, teacher, scheduler, text, none, args.guidance_scale)
        draws = sampler.draw(len(x), args.draws, shape, generator)
        direction = average_residual(residual, x, draws, args.chunk)
        descend(of_student, surrogate(x, direction))
        bar.set_postfix(direction=f"{direction.square().mean().sqrt():.3f}")

    if accelerator.is_main_process:
        pipe.unet = accelerator.unwrap_model(student)
        pipe.scheduler = LCMScheduler(  # whose only step is the student's
            num_train_timesteps=last + 1,
            trained_betas=scheduler.betas[: last + 1].tolist(),
            prediction_type=scheduler.config.prediction_type,
            original_inference_steps=1,
            timestep_scaling=1e4,
        )
        pipe.save_pretrained(args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_args())
