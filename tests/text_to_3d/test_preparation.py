"""Modules from configurations: sizes, cameras, precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from carv_distill.carv import average_residual, stream
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.precision import PRECISIONS, frozen_precision
from carv_distill.text_to_3d import preparation
from carv_distill.text_to_3d.options import DensifyOptions, GaussianOptions, SceneOptions, SDSConfig
from carv_distill.text_to_3d.preparation import build_module, largest_scene
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.runs import sds_words
from tests.helpers.tiny_pipelines import save_flux, save_sd3


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux(tmp_path_factory.mktemp("flux"))


def configured(folder: Path, *more: str) -> SDSConfig:
    config = load_config("configs/sds_carv.yaml", sds_words(folder, folder / "runs", *more))
    assert isinstance(config, SDSConfig)
    return config


def test_a_teacher_at_a_size_and_guidance_of_ones_own(flux: Path) -> None:
    module = build_module(configured(flux, "teacher.size=8", "teacher.guidance=2", "sds.guidance=9"), "cpu")
    teacher = module.objective.teacher
    assert (teacher.size, teacher.shape) == ((8, 8), (4, 4, 4))
    assert module.objective.denoiser is teacher.denoiser  # which is told its scale
    told = module.objective.prompts.value
    assert isinstance(told, Condition)
    assert told.guidance is not None
    assert told.guidance.tolist() == [2.0] * 4
    with pytest.raises(UserError, match=r"pictures of .* are 16×16; use scene\.size=16"):
        build_module(configured(flux, "teacher.size=16"), "cpu")


@pytest.mark.parametrize("size", [4, 0])
def test_a_size_out_of_range(flux: Path, size: int) -> None:
    with pytest.raises(UserError, match=rf"teacher\.size: {size} is below the least allowed value, 8"):
        configured(flux, f"teacher.size={size}")
    with pytest.raises(UserError, match=r"teacher\.size: \[10, 10\] makes latents of 5×5"):
        build_module(configured(flux, "teacher.size=10"), "cpu")


def test_options_of_cameras_arrive(tmp_path: Path) -> None:
    words = ("camera.elevation=[-10, 90]", "camera.position_noise=0.1", "camera.centre_noise=0.2")
    module = build_module(configured(save_sd3(tmp_path / "sd3"), *words, "camera.up_noise=0.02"), "cpu")
    sampler = module.objective.camera_sampler
    assert (sampler.elevation, sampler.position_noise) == ((-10, 90), 0.1)
    assert (sampler.centre_noise, sampler.up_noise) == (0.2, 0.02)
    upstream = module.objective.pipeline(0)(2, stream("cameras"))
    assert upstream.x.isfinite().all()


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("auto", "cuda:1", torch.float16),
        ("auto", "mps", torch.float32),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
    ],
)
def test_the_precision_of_frozen_weights(name: str, device: str, dtype: torch.dtype) -> None:
    assert frozen_precision(name, device) == dtype


def test_a_teacher_for_cuda_has_float16_by_default_and_its_autoencoder_float32(tmp_path: Path) -> None:
    teacher = build_module(configured(save_sd3(tmp_path / "sd3")), "cuda").objective.teacher
    assert teacher.network.model.dtype == torch.float16
    assert teacher.codec.vae.dtype == torch.float32


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_the_residual_of_a_teacher_in_half_precision(tmp_path: Path, precision: str, bound: float) -> None:
    """Weights as asked for, and computed so under a training's autocast too; the error is rounding's."""
    folder = save_sd3(tmp_path / "sd3")
    directions = []
    for name in ("float32", precision):
        more = (f"teacher.precision={name}", "sds.guidance=4", "estimator.proposal=uniform")
        module = build_module(configured(folder, *more), "cpu")
        objective = module.objective
        assert objective.teacher.network.model.dtype == PRECISIONS[name]
        x = torch.randn(2, 4, 4, 4, generator=stream("x"))
        residual = objective.residual(objective.prompts.value[torch.tensor([0, 1])], 0)  # type: ignore[index]
        draws = objective.levels.configured(0).draw(2, 4, (4, 4, 4), generator=stream("d"))
        directions.append(average_residual(residual, x, draws))
        if name != "float32":
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(average_residual(residual, x, draws), directions[-1])
    exact, rough = directions
    assert 0 < (rough - exact).norm() / exact.norm() < bound


def test_an_export_is_checked_with_as_many_gaussians_as_there_may_be() -> None:
    """Of which all are one in memory; without density control, and for fields, it is the scene itself."""
    fixed = SceneOptions(kind="gaussians", gaussians=GaussianOptions(10))
    scene = build_scene(fixed)
    assert largest_scene(fixed, scene) is scene
    field = build_scene(SceneOptions())
    assert largest_scene(SceneOptions(), field) is field
    growing = replace(fixed, gaussians=GaussianOptions(10, densify=DensifyOptions(every=1, most=10**9)))
    large = largest_scene(growing, scene)
    tiles = 4**2
    assert large.picture_bytes(32, 1) == (2 * 10**9 * tiles, 0)
    assert sum(p.untyped_storage().nbytes() for p in large.parameters()) < 100


def test_an_export_of_gaussians_from_a_file_is_checked_with_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 are too many for pictures of 2,048 pixels; with a file that says nothing until it is read."""
    words = ("scene.kind=gaussians", "scene.gaussians.count=100000", "clip.every=0", "export.size=2048")
    for place in ("", str(tmp_path / "points.ply")):
        config = configured(tmp_path, *words, "export.memory=0.9")
        config.scene.gaussians.start = place or None
        module: Any = SimpleNamespace(scene=build_scene(config.scene))
        monkeypatch.setattr(preparation, "build_module", lambda *_, module=module: module)
        monkeypatch.setattr(preparation, "start_from", lambda *_: None)
        prepared = preparation.prepare(config, "cpu", 1)
        early, late = (prepared.begin, prepared.require) if place else (prepared.require, prepared.begin)
        with pytest.raises(UserError, match=r"^export\.size: 2048: "):
            early()
        late()


def test_weights_without_effect_are_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module: Any = SimpleNamespace(scene=build_scene(SceneOptions()))
    monkeypatch.setattr(preparation, "build_module", lambda *_: module)
    for words in (["scene.kind=voxels"], ["scene.kind=hash", "sds.smoothness=1"]):
        preparation.prepare(configured(tmp_path, *words), "cpu", 1)
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said == "sds.smoothness and sds.colour_smoothness add nothing: scene.kind=hash has no voxels"


@pytest.mark.parametrize("autocast", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("precision", "bound"), [pytest.param("bfloat16", 0.25, marks=pytest.mark.slow), ("float16", 0.03)]
)
def test_a_fake_score_over_weights_in_half_precision(
    tmp_path: Path, precision: str, bound: float, autocast: bool
) -> None:
    """Its adapters learn in float32, and their gradient is that over float32 weights up to rounding, of whose
    bits bfloat16 has three fewer, under a training's autocast too; none of it underflows."""
    folder, gradients = save_sd3(tmp_path / "sd3"), []
    for name in ("float32", precision):
        module = build_module(configured(folder, f"teacher.precision={name}", "sds.objective=vsd"), "cpu")
        objective = module.objective
        fake = objective.fake
        assert fake is not None
        assert {p.dtype for p in fake.weights} == {torch.float32}
        assert objective.teacher.network.model.dtype == PRECISIONS[name]
        for i, p in enumerate(fake.weights):
            p.data.copy_(0.1 * torch.randn(p.shape, generator=stream("away", i)))
        x, cameras = torch.randn(1, 4, 4, 4, generator=stream("x")), objective.cameras(1, stream("c"))
        draws = module.fake_draws(0, x.dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and name != "float32"):
            losses = list(module.fake_losses(x, cameras, draws, 0))
        torch.stack(losses).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in fake.weights if p.grad is not None]))
    exact, rough = gradients
    assert 0 < (rough - exact).norm() / exact.norm() < bound
    assert exact[rough == 0].norm() < 1e-4 * exact.norm()
