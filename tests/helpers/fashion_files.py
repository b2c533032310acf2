"""Fashion-MNIST in miniature: its files, a classifier's features and their statistics."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from carv_distill.evaluation.classifier import WEIGHTS, Classifier, ClassifierFeatures
from carv_distill.evaluation.fid import FeatureStatistics, HeldOut


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def save_fashion_mnist(root: Path, train: int = 40, test: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Noise in torchvision's layout, the half to train on unpacked; its pixels [train, 28, 28] and labels."""
    folder = root / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    halves = []
    for name, count in (("train", train), ("t10k", test)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for what, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            file = folder / f"{name}-{what}-ubyte"
            if name == "train":
                file.write_bytes(idx(array))
            else:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(idx(array)))
        halves.append((pixels, labels))
    return halves[0]


def save_fashion_features(folder: Path) -> Path:
    """An untrained classifier of four features, and statistics by it that hold a floor."""
    folder.mkdir(parents=True)
    save_file(Classifier((1, 32, 32), (4, 4), 4, 10).state_dict(), folder / WEIGHTS)
    by = ClassifierFeatures(folder).fingerprint
    statistics = FeatureStatistics(torch.zeros(4).double(), torch.eye(4).double(), HeldOut(0.25, 20))
    statistics.save(folder / "reference.npz", size=32, extractor=by)
    return folder
