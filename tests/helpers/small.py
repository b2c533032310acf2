"""Small configurations that run in seconds, and where things lie."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
DIGITS_FEATURES = ROOT / "checkpoints/digits-features"

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
"""The `pytestmark` of a module that needs a CUDA device."""

SMALL = (
    f"teacher.path={ROOT}/checkpoints/digits-teacher",
    f"fid.weights={ROOT}/checkpoints/digits-features",
    "estimator.upstream=4",
    "estimator.draws=2",
    "dmd.fake_batch=4",
    "dmd.fake_updates_per_student=2",
    "trainer.max_steps=6",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "variance.every=0",
    "fid.every=0",
    "checkpoint.every=2",
    "dmd.lr_decay=none",
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: to the writer, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
