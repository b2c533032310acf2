"""What is descended: who is told which prompt, and what is let go."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carv_distill.engine.options import EstimatorOptions
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.guidance.options import ViewPrompts
from carv_distill.text_to_3d.guidance.timesteps import AnnealedSampler
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.objective import SDSObjective
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.sds_modules import VIEW

Make = Callable[..., SDSModule]


def around(degrees: float, elevation: float = 0.0) -> Cameras:
    one = torch.ones(1)
    return Cameras(math.radians(degrees) * one, math.radians(elevation) * one, 2 * one, one)


def test_words_of_ones_own_reach_the_cameras_that_see_the_view(make_module: Make) -> None:
    own = ViewPrompts(side="a blue cube", overhead="a blue ball")
    objective = make_module(prompts_by_view=own).objective
    plain = make_module(view_prompts=False, prompt="a blue cube").objective
    made = make_module().objective
    assert torch.equal(objective.conditions(around(90)).embeddings, plain.conditions(around(0)).embeddings)
    for degrees in (0, 180):
        found, exact = (o.conditions(around(degrees)).embeddings for o in (objective, made))
        assert torch.equal(found, exact)
    found, exact = (o.conditions(around(90, 80)).embeddings for o in (objective, made))
    assert not torch.equal(found, exact)


@pytest.mark.parametrize("objective", ["sds", "nfsd", "vsd", "ism"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_text_model_is_gone_from_memory(
    if_pipeline_folder: Path, objective: str, dtype: torch.dtype
) -> None:
    """A T5 of DeepFloyd has 4.8 billion parameters: nothing may hold it after the prompts are encoded."""
    teacher = load_text_teacher(if_pipeline_folder, dtype=dtype)
    assert teacher.prompts.text_models is not None
    models = [weakref.ref(model) for model in teacher.prompts.text_models.values()]
    weights = [weakref.ref(p) for p in teacher.prompts.text_models.parameters()]
    options = SDSOptions("a red torus", objective=objective, negative_prompt="blue")
    built = SDSObjective(
        teacher=teacher,
        scene=build_scene(VIEW),
        cameras=CameraSampler(),
        view=VIEW,
        options=options,
        levels=AnnealedSampler(teacher.schedule, EstimatorOptions(), options, 10),
    )
    gc.collect()
    assert models
    assert weights
    assert all(reference() is None for reference in (*models, *weights))
    assert built.teacher.prompts.text_models is None
