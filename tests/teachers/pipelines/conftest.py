"""Tiny random pipelines of every family, each built and loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from tests.helpers.tiny_pipelines import EVERY, SIZES


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: EVERY[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def teacher_of(folder_of: Callable[[str], Path]) -> Callable[..., TextTeacher]:
    """By name and precision."""

    @cache
    def load(name: str, dtype: torch.dtype = torch.float32) -> TextTeacher:
        return load_text_teacher(folder_of(name), SIZES.get(name, ()), dtype=dtype)

    return load


@pytest.fixture(scope="session")
def pipeline_of(folder_of: Callable[[str], Path]) -> Callable[..., Any]:
    """A new object for each test, whose scheduler may be exchanged."""

    def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
        absent: Any = {"tokenizer_3": None, "text_encoder_3": None} if name == "sd3_without_t5" else {}
        pipeline = DiffusionPipeline.from_pretrained(folder_of(name), **absent)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(dtype)

    return load
