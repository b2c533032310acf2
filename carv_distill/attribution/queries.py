"""The samples that attribution is asked about, from what a user says."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from carv_distill.errors import UserError

from .models import Samples, Subject


def read_queries(words: str, subject: Subject) -> Samples:
    """Queries for a subject: ``samples:8`` (made by the model, seeds 0 … 7), ``data:3,14`` (training samples
    by number), or an `.npz` file with `images` [n, C, H, W] (bytes, or [−1, 1]) and `labels` [n] or `prompts`
    [n].

    Raises:
        UserError: words or a file that are none of these, or samples of another shape than the model's.
    """
    kind, _, rest = words.partition(":")
    if kind == "samples":
        if not rest.isdecimal() or int(rest) < 1:
            raise UserError(f"--queries: {words!r}; samples:8 asks for eight of the model's own")
        return subject.generate(int(rest))
    if kind == "data":
        size = len(subject.training)
        try:
            numbers = [int(word) for word in rest.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 <= n < size for n in numbers):
            raise UserError(f"--queries: {words!r}; data: takes numbers from 0 to {size - 1}, as data:3,14")
        return subject.training.at(numbers)
    return _read_file(Path(words), subject)


def _read_file(path: Path, subject: Subject) -> Samples:
    if not path.is_file():
        raise UserError(f"--queries: {path} is no file (allowed: samples:8, data:3,14 or an .npz)")
    word = "labels" if subject.classes else "prompts"
    try:
        with np.load(path, allow_pickle=False) as found:
            missing = [name for name in ("images", word) if name not in found]
            if missing:
                raise UserError(f"--queries: {path} lacks {', '.join(missing)}; it has {', '.join(found)}")
            images, words = torch.from_numpy(found["images"]), found[word].tolist()
    except (ValueError, OSError, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"--queries: {path} is no readable .npz of numbers") from error
    shape = list(subject.training.images.shape[1:])
    if list(images.shape[1:]) != shape or not len(images):
        raise UserError(f"--queries: {path} has images {list(images.shape)}, the model's are {['n', *shape]}")
    if len(words) != len(images):
        raise UserError(f"--queries: {path} has {len(images)} images and {len(words)} {word}")
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    images = images.float()
    if not images.isfinite().all() or images.abs().max() > 1.01:
        raise UserError(f"--queries: {path} has pixels outside [−1, 1]; bytes are taken too")
    if subject.classes and not all(0 <= w < subject.classes for w in words):
        raise UserError(f"--queries: {path} has labels outside 0 … {subject.classes - 1}")
    return subject.prepare(images, words)
