"""The samples that attribution is asked about, from what a user says."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from carv_distill.errors import UserError

from .models import AttributedModel, Samples


def read_queries(words: str, model: AttributedModel) -> Samples:
    """Queries for a model: ``samples:8`` (made by the model, seeds 0 … 7), ``data:3,14`` (training samples
    by number), or an `.npz` file with `images` [n, C, H, W] (bytes, or [−1, 1]) and `labels` [n] or `prompts`
    [n].

    Raises:
        UserError: words or a file that are none of these, or samples of another shape than the model's.
    """
    kind, _, rest = words.partition(":")
    if kind == "samples":
        if not rest.isdecimal() or int(rest) < 1:
            raise UserError(f"--queries: {words!r}; samples:8 asks for eight of the model's own")
        return model.generate(int(rest))
    if kind == "data":
        size = len(model.training)
        try:
            numbers = [int(word) for word in rest.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 <= n < size for n in numbers):
            raise UserError(f"--queries: {words!r}; data: takes numbers from 0 to {size - 1}, as data:3,14")
        return model.training.at(numbers)
    return _read_file(Path(words), model)


def _read_file(path: Path, model: AttributedModel) -> Samples:
    if not path.is_file():
        raise UserError(f"--queries: {path} is no file (allowed: samples:8, data:3,14 or an .npz)")
    word = "labels" if model.classes else "prompts"
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("images", word) if name not in file]
            if missing:
                raise UserError(f"--queries: {path} lacks {', '.join(missing)}; it has {', '.join(file)}")
            images, words = torch.from_numpy(file["images"]), file[word].tolist()
    except (ValueError, OSError, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"--queries: {path} is no readable .npz of numbers") from error
    shape = list(model.training.images.shape[1:])
    if list(images.shape[1:]) != shape or not len(images):
        raise UserError(f"--queries: {path} has images {list(images.shape)}, the model's are {['n', *shape]}")
    if len(words) != len(images):
        raise UserError(f"--queries: {path} has {len(images)} images and {len(words)} {word}")
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    images = images.float()
    if not images.isfinite().all() or images.abs().max() > 1.01:
        raise UserError(f"--queries: {path} has pixels outside [−1, 1]; bytes are taken too")
    if model.classes and not all(0 <= w < model.classes for w in words):
        raise UserError(f"--queries: {path} has labels outside 0 … {model.classes - 1}")
    return model.prepare(images, words)
