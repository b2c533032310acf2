"""Training a teacher: it learns, it resumes to the bit, and what it saves loads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.data.images import check_fit, load_images
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from carv_distill.teacher_training.image_module import PretrainModule, build_teacher
from carv_distill.teacher_training.options import PretrainOptions, TeacherConfig
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.exact import EmpiricalDenoiser
from tests.helpers.image_files import as_zip, pictures
from tests.helpers.pages import run_page
from tests.helpers.small import ROOT


def small_config(folder: Path, *overrides: str) -> TeacherConfig:
    words = (
        f"folder={folder}",
        f"fid.weights={ROOT}/checkpoints/digits-features",
        "training.channels=[8,16]",
        "training.head_channels=8",
        "training.batch=32",
        "training.ema=0.9",
        "training.warmup=10",
        "training.learning_rate=4e-3",
        "trainer.max_steps=60",
        "trainer.log_every=5",
        "trainer.accelerator=cpu",
        "fid.every=0",
        "checkpoint.every=20",
    )
    config = load_config(ROOT / "configs/teacher_digits.yaml", (*words, *overrides))
    assert isinstance(config, TeacherConfig)
    return config


def test_the_loss_falls_and_the_saved_teacher_denoises(tmp_path: Path) -> None:
    """After 60 steps the averaged network is nearer to the exact posterior mean than no denoising is."""
    run = train(small_config(tmp_path))
    losses = [r["loss/teacher"] for r in read_metrics(run / "metrics.csv")]
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]
    teacher = load_teacher(run / "teacher")
    assert (teacher.channels, teacher.size, teacher.labels) == (1, 8, 11)
    data = load_images("digits")
    g = torch.Generator().manual_seed(0)
    x, labels = data.images[:200], data.labels[:200]
    sigma = torch.full((200,), 0.8)
    x_t = x + 0.8 * torch.randn(x.shape, generator=g)
    exact = EmpiricalDenoiser(data.images, data.labels)(x_t, sigma, labels)
    error = (teacher.denoiser(x_t, sigma, labels) - exact).square().mean()
    assert error < 0.5 * (x_t - exact).square().mean()
    torch.manual_seed(0)
    page = run_page(run / "teacher")
    torch.manual_seed(0)
    sigmas = page["scheduler"].sigmas
    x = page["scheduler"].init_noise_sigma * torch.randn(4, 1, 8, 8)
    for high, low in pairwise(sigmas):  # Euler's steps of dx/dσ = (x − D)/σ
        x = x + (low - high) * (x - teacher.denoiser(x, high.expand(4), torch.arange(4))) / high
    torch.testing.assert_close(page["images"], x, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_resumed_teacher_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """Cut at 40 of 60 steps (cosine schedule, EMA and optimiser included) and resumed."""
    whole = train(small_config(tmp_path, "name=whole", "preview.every=0"))
    cut = train(small_config(tmp_path, "name=cut", "preview.every=0"))
    for path in (cut / "checkpoints").glob("*step=60.ckpt"):
        path.unlink()
    train(small_config(tmp_path, "name=cut", "preview.every=0"), resume=True)
    name = "checkpoints/newest-step=60.ckpt"
    a, b = (torch.load(run / name, weights_only=True) for run in (whole, cut))
    assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"])
    assert a["lr_schedulers"] == b["lr_schedulers"]


def test_dropped_labels_become_the_null_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a dropout of 1 every label the network sees is the last one; at 0 none is."""
    data = load_images("digits")
    seen: list[torch.Tensor] = []
    for dropout in (0.0, 1.0):
        options = PretrainOptions(channels=[8, 16], head_channels=8, batch=16, label_dropout=dropout)
        module = PretrainModule(build_teacher(options, 1, 8, 10), data, options, 1, 0)
        module.denoiser.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
        monkeypatch.setattr(PretrainModule, "global_step", 0)
        module.training_step(next(iter(module.train_dataloader())), 0)
    assert (seen[0] < 10).all()
    assert (seen[1] == 10).all()


@pytest.mark.slow
def test_a_teacher_learns_from_files_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """Colour images in a zip, decoded by a worker, with mirror images; cut at 4 of 6 steps."""
    path = as_zip(tmp_path, pictures())
    words = (
        "data.name=images",
        f"data.path={path}",
        "data.flip=true",
        "data.workers=1",
        "training.batch=4",
        "trainer.max_steps=6",
        "checkpoint.every=2",
    )
    whole = train(small_config(tmp_path, *words, "name=whole"))
    cut = train(small_config(tmp_path, *words, "name=cut"))
    next((cut / "checkpoints").glob("*step=6.ckpt")).unlink()
    train(small_config(tmp_path, *words, "name=cut", "data.workers=0"), resume=True)
    a, b = (
        torch.load(run / "checkpoints/newest-step=6.ckpt", weights_only=True)["state_dict"]
        for run in (whole, cut)
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
    teacher = load_teacher(whole / "teacher")
    assert (teacher.channels, teacher.size, teacher.labels) == (3, 8, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": [8] * 5}, r"^training\.channels: \[8, 8, 8, 8, 8\], .* cannot be computed"),
        ({"channels": [8, 8 * 10**8], "head_channels": 8}, r"^training\.channels: .* make no network"),
        ({"rho": 1e-300}, r"^training\.sigma_min, training\.sigma_max, training\.rho are no noise levels"),
        ({"sigma_min": 1.0, "sigma_max": 1.0 + 1e-15}, "all must be increasing"),
    ],
)
def test_sizes_and_levels_that_cannot_be_are_one_line(changes: dict[str, Any], message: str) -> None:
    """Five resolutions of 8 × 8 pixels, networks beyond memory, and levels that are all one."""
    options = PretrainOptions(**{"channels": [8, 8], "head_channels": 8, **changes})
    with pytest.raises(UserError, match=message) as caught:
        build_teacher(options, 1, 8, 10)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_pictures_without_labels_goes_on_to_teach(tmp_path: Path) -> None:
    """Its one embedding is the null label, which all its pictures have."""
    data = ("data.name=images", f"data.path={as_zip(tmp_path, pictures())}", "data.labels=false")
    run = train(small_config(tmp_path, *data, "data.workers=0", "trainer.max_steps=1", "training.batch=2"))
    teacher = load_teacher(run / "teacher")
    assert teacher.labels == 1
    config = load_config(
        ROOT / "configs/dmd_carv.yaml", [*data, f"teacher.path={run}/teacher", "fid.every=0"]
    )
    assert isinstance(config, DMDConfig)
    spec = load_images(config.data).spec
    check_fit(teacher, spec, config.teacher.path)
    with pytest.raises(UserError, match="an unconditional teacher fits"):
        check_fit(load_teacher(ROOT / "checkpoints/digits-teacher"), replace(spec, channels=1), "digits")
