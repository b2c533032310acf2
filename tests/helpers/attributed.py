"""A teacher and a training set small enough to be attributed in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.attribution import models as subject
from carv_distill.data.images import load_images
from carv_distill.data.spec import LabelledImages
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, save_teacher
from tests.helpers.tiny_unet import tiny_unet

FEW = 70
"""Digits of the training set: two blocks of a store."""


def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training set is the first 70 digits."""

    def few(name: str) -> LabelledImages:
        data = load_images(name)
        return LabelledImages(data.images[:FEW], data.labels[:FEW], data.spec)

    monkeypatch.setattr(subject, "load_images", few)


def tiny_teacher(folder: Path, seed: int = 0) -> str:
    """A random teacher of digits in a folder of its own."""
    place = folder / f"teacher-{seed}"
    schedule = edm_scheduler_config(EDMSchedule(0.05, 5.0), 0.5)
    save_teacher(place, tiny_unet(seed, labels=11), schedule, "tiny")
    return str(place)
