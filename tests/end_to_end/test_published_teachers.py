"""Distillation of the kinds of published teachers: a DDPM folder as hubs have it, and EDM's networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from lightning.pytorch import Trainer

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.distillation.conditions import Labels
from carv_distill.distillation.export.image_student import ImageProduct
from carv_distill.distillation.export.one_step_pipeline import OneStepPipeline
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.networks import labelled_networks
from carv_distill.distillation.objective import DMDObjective
from carv_distill.distillation.options import DMDOptions
from carv_distill.engine.estimator import Estimator
from carv_distill.teachers.parametrisation import EpsPreconditioning
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import EDMSchedule, VPSchedule
from carv_distill.teachers.teacher import Teacher, edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.edm_networks import small

# google/ddpm-cifar10-32's two files; the channels there are 128, 256, 256, 256 in groups of 32
CONFIG = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [8, 16, 16, 16],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}


@pytest.fixture
def ddpm(tmp_path: Path) -> Path:
    """A flat folder with just these two files and the weights."""
    folder = tmp_path / "ddpm-cifar10-32"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DModel.from_config(CONFIG).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder


def distil(teacher: Teacher, classes: int, folder: Path, **options: Any) -> DMDModule:
    """Three student updates, saved into the folder."""
    options = {"fake_updates_per_student": 1, "fake_batch": 4, **options}
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    networks = labelled_networks(teacher, 1.0, classes, bfloat16=False)
    objective = DMDObjective(networks, DMDOptions(**options), Labels(classes), seed=0)
    product = ImageProduct(teacher.scheduler_config, classes)
    module = DMDModule(objective=objective, estimator=Estimator(sampler, 2, 2), seed=0, product=product)
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    Trainer(max_steps=3, max_epochs=-1, accelerator="cpu", **quiet).fit(module)
    module.save(folder, 0)
    return module


def test_a_published_ddpm_folder_loads(ddpm: Path) -> None:
    """Unconditional, ε-prediction on linear betas; attention at the second level alone."""
    teacher = load_teacher(ddpm)
    assert (teacher.channels, teacher.size, teacher.labels) == (3, 32, 0)
    assert isinstance(teacher.denoiser.precondition, EpsPreconditioning)
    betas = torch.linspace(0.0001, 0.02, 1000)
    assert teacher.schedule == VPSchedule(betas)
    assert teacher.schedule.sigma_max == pytest.approx(157.4, abs=0.1)
    attentive = {n.rsplit(".attentions")[0] for n in teacher.network.state_dict() if ".attentions" in n}
    assert attentive == {"model.down_blocks.1", "model.up_blocks.2", "model.mid_block"}


def test_it_is_sampled_and_distilled(ddpm: Path, tmp_path: Path) -> None:
    """Heun samples are finite; the one-step student at σ_max learns, and comes back as a pipeline."""
    teacher = load_teacher(ddpm)
    z = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert heun_sample(teacher.denoiser, teacher.schedule, z, None, 3).isfinite().all()
    module = distil(teacher, 1, tmp_path / "student")
    assert all(v.isfinite() for v in module.latest_losses.values())
    before, after = teacher.network.state_dict(), module.objective.student.network.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    loaded = OneStepPipeline(
        UNet2DModel.from_pretrained(tmp_path / "student/unet"),
        DDPMScheduler.from_pretrained(tmp_path / "student/scheduler"),
    )
    made = loaded(2, generator=torch.Generator().manual_seed(0), output_type="raw").images
    with torch.no_grad():
        expected = module.sample(z, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["ddpm++", "ncsn++", pytest.param("adm", marks=pytest.mark.slow), "ddpm++ unconditional"]
)
def test_edm_networks_are_distilled(name: str, tmp_path: Path) -> None:
    """Three updates of each kind; the student that is saved is the module's average, bit for bit."""
    save_teacher(tmp_path / "teacher", small(name), edm_scheduler_config(EDMSchedule(), 0.5), "")
    teacher = load_teacher(tmp_path / "teacher")
    module = distil(teacher, 10, tmp_path / "student")
    assert all(v.isfinite() for v in module.latest_losses.values())
    student = load_teacher(tmp_path / "student").network.state_dict()
    averaged = module.objective.student_ema.network.state_dict()
    assert student.keys() == averaged.keys()
    assert all(torch.equal(student[k], averaged[k]) for k in student)
    assert any(not torch.equal(student[k], v) for k, v in teacher.network.state_dict().items())
