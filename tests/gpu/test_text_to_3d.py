"""Text-to-3D on a CUDA device: bf16 autocast, and no synchronisation in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.carv import AdaptiveProposal, average_residual, stream
from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import load_config, train
from carv_distill.teachers.low_rank import LowRankOptions
from carv_distill.text_to_3d.guidance.options import VSDOptions
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.loops import fit_without_waiting
from tests.helpers.runs import sds_words as words
from tests.helpers.small import ON_GPU

pytestmark = ON_GPU


@pytest.mark.parametrize("kind", ["voxels", "hash"])
@pytest.mark.parametrize("sampling", ["iid", "sobol"])
def test_a_step_of_text_to_3d_does_not_wait_for_the_device(
    make_module: Callable[..., SDSModule], kind: str, sampling: str
) -> None:
    """The tiny pipeline, with an adaptive proposal and a learned coefficient."""
    module = make_module(adaptive=AdaptiveProposal(10), coefficient="learned", strategy="nested")
    objective = module.objective
    objective.scene = build_scene(replace(objective.view, kind=kind))
    objective.camera_sampler = replace(objective.camera_sampler, sampling=sampling)
    fit_without_waiting(module)


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_step_by_vsd_does_not_wait_for_the_device(
    make_module: Callable[..., SDSModule], draws: int, perp_neg: bool
) -> None:
    """The fake score's training included."""
    vsd = VSDOptions(draws=draws, adapters=LowRankOptions(rank=2))
    fit_without_waiting(make_module(objective="vsd", vsd=vsd, perp_neg=perp_neg))


@pytest.mark.parametrize("objective", ["sds", "csd", "nfsd"])
def test_a_step_that_is_left_out_does_not_wait_for_the_device(
    make_module: Callable[..., SDSModule], objective: str
) -> None:
    """Four steps of NaN alone, from cameras with noise: the field stays as it was, and that is counted."""
    module = make_module(adaptive=AdaptiveProposal(10), objective=objective, negative_prompt="blue cube")
    noise = {"position_noise": 0.1, "centre_noise": 0.1, "up_noise": 0.02}
    module.objective.camera_sampler = replace(module.objective.camera_sampler, **noise)
    predict, before = module.objective.denoiser.predict_noise, [p.clone() for p in module.scene.parameters()]
    module.objective.denoiser.predict_noise = lambda *given: predict(*given) * torch.nan  # type: ignore[method-assign]
    fit_without_waiting(module)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(before, module.scene.parameters(), strict=True))
    assert [float(v) for v in module.skips.counts.values()] == [24, 4, 4, 4]


@pytest.mark.parametrize(
    "more",
    [
        ("scene.kind=voxels",),
        ("scene.kind=hash",),
        ("scene.kind=gaussians",),
        ("sds.objective=vsd", "sds.perp_neg=true"),
        ("sds.objective=ism", "sds.ism.stride=0.1"),
    ],
)
def test_text_to_3d_in_bf16_goes_through(
    pipeline_folder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    given = words(pipeline_folder, tmp_path, *more, "trainer.accelerator=cuda", "sds.opaque=1")
    folder = train(load_config("configs/sds_carv.yaml", given))
    rows = read_metrics(folder / "metrics.csv")
    assert all(torch.tensor(list(r.values())).isfinite().all() for r in rows)
    assert rows[-1]["step"] == 6
    assert (folder / "object" / "turntable.mp4").is_file()


def test_what_text_to_3d_learned_from_draws_resumes_on_the_device(
    pipeline_folder: Path, tmp_path: Path
) -> None:
    """The learned coefficient and the adaptive proposal are loaded before the networks are moved."""
    more = ("sds.coefficient=learned", "estimator.proposal=adaptive", "trainer.accelerator=cuda")
    given = words(pipeline_folder, tmp_path, *more)
    folder = train(load_config("configs/sds_carv.yaml", given))
    longer = load_config("configs/sds_carv.yaml", [*given, "trainer.max_steps=9"])
    assert train(longer, resume=True) == folder
    assert read_metrics(folder / "metrics.csv")[-1]["step"] == 9


def test_the_number_of_gaussians_changes_on_the_device(pipeline_folder: Path, tmp_path: Path) -> None:
    """By whichever splatter is there, in bf16; the last change is of the checkpoint's count, too."""
    more = ("scene.kind=gaussians", "scene.gaussians.count=50", "trainer.accelerator=cuda")
    densify = {"every": 2, "start": 1, "gradient": 1e-6, "reset_every": 4, "most": 130}
    given = words(
        pipeline_folder, tmp_path, *more, *(f"scene.gaussians.densify.{k}={v}" for k, v in densify.items())
    )
    folder = train(load_config("configs/sds_carv.yaml", given))
    counts = [row["scene/gaussians"] for row in read_metrics(folder / "metrics.csv")]
    assert 50 == counts[0] < counts[1] < counts[3] <= 130
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert len(kept["objective.scene.means"]) == counts[-1]


def test_the_sds_direction_in_bf16_is_close_to_the_one_in_float32(
    make_module: Callable[..., SDSModule],
) -> None:
    """The same renders and draws: relative error below 5 %."""
    module = make_module().to("cuda")
    x, residual, *_ = module.objective.pipeline(0)(8, stream(0, device="cuda"))
    draws = module.objective.levels.configured(0).draw(8, 8, x.shape[1:], generator=stream(1, device="cuda"))
    exact = average_residual(residual, x, draws)
    with torch.autocast("cuda", torch.bfloat16):
        rough = average_residual(residual, x, draws)
    assert (rough - exact).norm() < 0.05 * exact.norm()
