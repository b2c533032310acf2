"""Models with their training sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carv_distill.attribution.models.attributed import load_model
from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import TASKS, train
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.attributed import FEW, few_digits


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
