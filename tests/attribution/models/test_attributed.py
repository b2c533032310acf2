"""Models with their training sets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from PIL import Image

from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.queries import read_queries
from carv_distill.data.options import DataOptions
from carv_distill.distillation.generators import generators
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, train
from carv_distill.teachers.schedule import EDMSchedule, LogNormalSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.attributed import FEW, few_digits
from tests.helpers.tiny_unet import tiny_unet


@pytest.mark.slow
def test_a_distillations_queries_are_its_students_samples(
    tmp_path: Path, small_config: Callable[..., DMDConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_digits(monkeypatch)
    config = small_config("trainer.max_steps=2")
    run, model_of = train(config), TASKS["dmd"].model
    assert model_of is not None
    model = load_model(model_of(config, run, None), "cpu")
    assert len(model.training) == FEW
    queries = model.generate(model.asked(3))
    assert queries.words == ["0", "1", "2"]
    student = load_teacher(run / "student")
    z = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    top = student.schedule.sigma_max
    sample = student.denoiser(top * z, torch.full((1,), top), torch.tensor([2]))
    assert torch.allclose(queries.batch.x[2:], sample, atol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        pytest.param(
            DDIMScheduler(
                prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
            ),
            marks=pytest.mark.slow,
        ),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
)
def test_levels_that_end_in_pure_noise_give_queries_of_teacher_and_student(
    tmp_path: Path,
    small_config: Callable[..., DMDConfig],
    monkeypatch: pytest.MonkeyPatch,
    scheduler: SchedulerMixin,
) -> None:
    """σ = ∞, of zero terminal signal and of flow matching: ∞ times the noise would be no picture."""
    few_digits(monkeypatch)
    path = tmp_path / "t"
    save_teacher(path, tiny_unet(labels=10), json.loads(scheduler.to_json_string()), "")
    teacher = load_model(TrainedModel(path, DataOptions("digits")), "cpu")
    assert teacher.generate(teacher.asked(3)).batch.x.isfinite().all()
    config = small_config(f"teacher.path={path}", "trainer.max_steps=2")
    run, model_of = train(config), TASKS["dmd"].model
    assert model_of is not None
    queries = load_model(model_of(config, run, None), "cpu").generate([0, 1, 2]).batch
    student = load_teacher(run / "student")
    z = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    sample = student.denoiser.of_noise(z, torch.full((1,), math.inf), torch.tensor([2]))
    torch.testing.assert_close(queries.x[2:], sample, rtol=0, atol=1e-5)
    assert [g.name for g in generators(config, run, "cpu")] == ["student, 1 step", "teacher, DDIM 18"]


def test_a_teacher_that_knows_no_labels_is_shown_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set that has some, too: what it made has none, and pictures without are taken."""
    few_digits(monkeypatch)
    save_teacher(
        tmp_path / "t", tiny_unet(labels=None), edm_scheduler_config(EDMSchedule(0.05, 5.0), 0.5), ""
    )
    model = load_model(TrainedModel(tmp_path / "t", DataOptions("digits")), "cpu")
    assert model.classes == 0
    assert set(model.training.words) == {""}
    assert model.generate(model.asked(3)).words == [""] * 3
    (tmp_path / "asked").mkdir()
    Image.new("L", (8, 8), 200).save(tmp_path / "asked/a.png")
    queries = read_queries(str(tmp_path / "asked"), model)
    assert (queries.words, queries.batch.cond) == ([""], None)


def test_classes_are_called_by_their_names_and_must_be_the_teacher_s(tmp_path: Path) -> None:
    """In the teacher's order: with a bird before them cat and dog would be two others."""

    def pictures(*names: str) -> DataOptions:
        for name in names:
            (tmp_path / "-".join(names) / name).mkdir(parents=True)
            Image.new("L", (8, 8), 200).save(tmp_path / "-".join(names) / name / "a.png")
        return DataOptions("images", str(tmp_path / "-".join(names)))

    levels = LogNormalSchedule(0.0, 1.0, 0.05, 5.0)
    config = edm_scheduler_config(EDMSchedule(0.05, 5.0), 0.5)
    save_teacher(tmp_path / "t", tiny_unet(labels=3), config, "", levels, ("cat", "dog"))
    model = load_model(TrainedModel(tmp_path / "t", pictures("cat", "dog")), "cpu")
    assert model.training.words == ["cat", "dog"]
    assert model.generate(model.asked(3)).words == ["cat", "dog", "cat"]
    with pytest.raises(UserError, match=r"learned the classes cat, dog, .* data .* has bird, cat, dog"):
        load_model(TrainedModel(tmp_path / "t", pictures("bird", "cat", "dog")), "cpu")
