"""The samples that attribution is asked about, from what a user says."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carv_distill.attribution.models.attributed import AttributedModel
from carv_distill.attribution.samples.sets import Samples
from carv_distill.errors import UserError, named_as

ALLOWED = "samples:8, data:3,14, prompt:TEXT, a folder, zip or shards, or an .npz"
ARRAYS = ".npz"


def read_queries(words: str, model: AttributedModel) -> Samples:
    """Queries for a model: ``samples:8`` (made by the model, seeds 0 … 7), ``data:3,14`` (training samples
    by number), ``prompt:a red cube turns`` (made for it), a place with pictures and their labels or captions,
    or an `.npz` file with `images` [n, …] (bytes, or [−1, 1]) and `labels` [n] or `prompts` [n], or nothing
    else where the model has neither.

    Raises:
        UserError: words, a file or a place that are none of these, or samples of another shape than the
            model's.
    """
    kind, _, rest = words.partition(":")
    if kind == "samples":
        if not rest.isdecimal() or int(rest) < 1:
            raise UserError(f"--queries: {words!r}; samples:8 asks for eight of the model's own")
        return _generated(model, model.asked(int(rest)))
    if kind == "prompt":
        if model.classes is not None:
            has = "labels, not prompts" if model.classes else "no prompts"
            raise UserError(f"--queries: {words!r}; the model has {has}")
        if not rest.strip():
            raise UserError(f"--queries: {words!r}; there is no prompt after it")
        return _generated(model, [rest.strip()])
    if kind == "data":
        return _from_training(words, rest, model)
    place = Path(words)
    if not place.exists():
        raise UserError(f"--queries: {words} is no file or folder (allowed: {ALLOWED})")
    pictures, about, names = _arrays(place, model) if place.suffix == ARRAYS else _read(place, model)
    return replace(model.prepare(pictures, about), names=names)


def _generated(model: AttributedModel, about: Sequence[Any]) -> Samples:
    return replace(model.generate(about), names=[f"seed {seed}" for seed in range(len(about))])


def _from_training(words: str, rest: str, model: AttributedModel) -> Samples:
    places = {number: place for place, number in enumerate(model.training.numbers.tolist())}
    try:
        numbers = [int(word) for word in rest.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not places.keys() >= set(numbers):
        some = len(places) <= max(places)
        raise UserError(
            f"--queries: {words!r}; data: takes numbers from {min(places)} to {max(places)}, as data:3,14"
            f"{', of the samples that data.only has' if some else ''}"
        )
    return model.training.at([places[number] for number in numbers])


def _read(place: Path, model: AttributedModel) -> tuple[Tensor, list[Any], list[str]]:
    with named_as({"data.path": "--queries"}):
        pictures, about, names = model.read(place)
    if model.classes and not all(0 <= label < model.classes for label in about):
        raise UserError(f"--queries: {place} has labels outside 0 … {model.classes - 1}")
    return pictures, about, names


def _arrays(path: Path, model: AttributedModel) -> tuple[Tensor, list[Any], list[str]]:
    word = {None: "prompts", 0: ""}.get(model.classes, "labels")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("images", word) if name and name not in file]
            if missing:
                raise UserError(f"--queries: {path} lacks {', '.join(missing)}; it has {', '.join(file)}")
            images = torch.from_numpy(file["images"])
            words = file[word] if word else np.zeros(len(images), dtype=np.int64)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"--queries: {path} is no readable .npz of numbers") from error
    shape = list(model.shape)
    if list(images.shape[1:]) != shape or not len(images):
        raise UserError(f"--queries: {path} has images {list(images.shape)}, the model's are {['n', *shape]}")
    kinds, wanted = ("U", "texts") if word == "prompts" else ("iu", "whole numbers")
    if words.ndim != 1 or words.dtype.kind not in kinds:
        raise UserError(
            f"--queries: {path} has {word} {list(words.shape)} of {words.dtype}; {wanted} [n] are needed"
        )
    about = words.tolist()
    if len(about) != len(images):
        raise UserError(f"--queries: {path} has {len(images)} images and {len(about)} {word}")
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    images = images.float()
    if not images.isfinite().all() or images.abs().max() > 1.01:
        raise UserError(f"--queries: {path} has pixels outside [−1, 1]; bytes are taken too")
    if model.classes and not all(0 <= w < model.classes for w in about):
        raise UserError(f"--queries: {path} has labels outside 0 … {model.classes - 1}")
    return images, about, [f"{path.name} #{number}" for number in range(len(about))]
