"""A teacher and a training set small enough to be attributed in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from carv_distill.attribution.models import attributed
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.attribution.samples.sets import Samples, TrainingSet, held
from carv_distill.data.images import load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import LabelledImages, in_memory
from carv_distill.engine.task import TrainedModel
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, save_teacher
from tests.helpers.tiny_unet import tiny_unet

FEW = 70
"""Digits of the training set: two blocks of a store."""


def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training set is the first 70 digits."""

    def few(options: DataOptions) -> LabelledImages:
        data = in_memory(load_images(options))
        return LabelledImages(data.images[:FEW], data.labels[:FEW], data.spec)

    monkeypatch.setattr(attributed, "load_images", few)


def training_set(x: Tensor, words: Sequence[str] = ()) -> TrainingSet:
    """Of pictures that are what a model without conditions denoises."""
    return held(samples(x, words), [f"#{n}" for n in range(len(x))], torch.arange(len(x)))


def samples(x: Tensor, words: Sequence[str] = ()) -> Samples:
    """The same as samples in memory."""
    names = [f"#{n}" for n in range(len(x))]
    return Samples(x, list(words) or [""] * len(x), SampleBatch(x), names=names)


def tiny_teacher(folder: Path, seed: int = 0) -> TrainedModel:
    """A random teacher, as if it had learned from digits, in a folder of its own."""
    place = folder / f"teacher-{seed}"
    schedule = edm_scheduler_config(EDMSchedule(0.05, 5.0), 0.5)
    save_teacher(place, tiny_unet(seed, labels=11), schedule, "tiny")
    return TrainedModel(place, DataOptions("digits"))
