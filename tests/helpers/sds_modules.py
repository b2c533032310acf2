"""Tiny random pipelines and modules around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.options import EstimatorOptions
from carv_distill.geometry.camera import CameraSampler
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.guidance.timesteps import AnnealedSampler
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.objective import SDSObjective
from carv_distill.text_to_3d.options import SceneOptions, SDSOptions
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pixel import save_tiny_if_pipeline

VIEW = SceneOptions(resolution=8, size=8, samples=8)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def if_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_if_pipeline(tmp_path_factory.mktemp("if_pipeline"))


@pytest.fixture
def make_module(pipeline_folder: Path) -> Callable[..., SDSModule]:
    return partial(build_module, pipeline_folder)


@pytest.fixture
def make_pixel_module(if_pipeline_folder: Path) -> Callable[..., SDSModule]:
    return partial(build_module, if_pipeline_folder)


def build_module(
    folder: Path,
    upstream: int = 2,
    draws: int = 3,
    adaptive: Any = None,
    view: SceneOptions = VIEW,
    **changes: Any,
) -> SDSModule:
    estimator = {k: changes.pop(k) for k in list(changes) if k in EstimatorOptions.__annotations__}
    estimator = {"proposal": "weighting", "defensive": 0.0, **estimator}
    options = SDSOptions(**{"prompt": "a red torus", "sparsity": 0.0, **changes})
    teacher = load_text_teacher(folder)
    levels = AnnealedSampler(
        teacher.schedule, EstimatorOptions(upstream, draws, **estimator), options, 10, adaptive
    )
    objective = SDSObjective(
        teacher=teacher,
        scene=build_scene(view),
        cameras=CameraSampler(),
        view=view,
        options=options,
        levels=levels,
    )
    return SDSModule(objective=objective, seed=0)
