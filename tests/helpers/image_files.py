"""Small data sets on disk, in the layouts of the real ones."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from carv_distill.data.options import DataOptions

Files = dict[str, bytes]
LAST = "00001/img00000005.png"


def save_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int]) -> np.ndarray:
    """A data set in CIFAR-10's layout, under its own checksums, in two parts; its pixels, [n, 3072] bytes."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(256, size=(len(labels), 3072), dtype=np.uint8)
    half = (len(labels) + 1) // 2
    content = {
        "data_batch_1": {"data": pixels[:half], "labels": labels[:half]},
        "data_batch_2": {"data": pixels[half:], "labels": labels[half:]},
        "test_batch": {"data": pixels[:1], "labels": [0]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    sums = {}
    for name, entry in content.items():
        (folder / name).write_bytes(pickle.dumps(entry))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[n, sums[n]] for n in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return pixels


def save_zip(path: Path, size: int, labels: list[int]) -> None:
    """A zip of PNG files in EDM's layout, with dataset.json."""
    rng = np.random.default_rng(0)
    entries = []
    with zipfile.ZipFile(path, "w") as archive:
        for i, label in enumerate(labels):
            name, content = f"00000/img{i:08d}.png", io.BytesIO()
            Image.fromarray(rng.integers(256, size=(size, size, 3), dtype=np.uint8)).save(content, "PNG")
            archive.writestr(name, content.getvalue())
            entries.append([name, label])
        archive.writestr("dataset.json", json.dumps({"labels": entries}))


def png(seed: int, mode: str = "RGB", size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    shape = (size[1], size[0], *{"L": (), "RGB": (3,), "RGBA": (4,)}[mode])
    pixels = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, form)
    return file.getvalue()


def pictures(count: int = 6, labels: bool = True) -> Files:
    files = {f"{i % 2:05d}/img{i:08d}.png": png(i) for i in range(count)}
    entries = [[name, i % 3] for i, name in enumerate(files)] if labels else None
    return files | {"dataset.json": json.dumps({"labels": entries}).encode()}


def as_folder(place: Path, files: Files) -> str:
    for name, content in files.items():
        (place / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "set" / name).write_bytes(content)
    return str(place / "set")


def as_zip(place: Path, files: Files) -> str:
    with zipfile.ZipFile(place / "set.zip", "w") as file:
        for i, (name, content) in enumerate(files.items()):
            file.writestr(name, content, zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    return str(place / "set.zip")


def stored(path: str, **options: Any) -> DataOptions:
    return DataOptions("images", path, **options)
