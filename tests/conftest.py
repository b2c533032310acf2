"""What several test folders share: small configurations that run in seconds."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from carv_distill.training.config import load_config
from carv_distill.training.schemas import DMDConfig

ROOT = Path(__file__).parent.parent

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


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., DMDConfig]:
    """dmd_carv.yaml shrunk to seconds, with a run folder of the test's own; takes overrides."""

    def make(*overrides: str) -> DMDConfig:
        words = (*SMALL, f"folder={tmp_path}/runs", *overrides)
        config = load_config(ROOT / "configs/dmd_carv.yaml", words)
        assert isinstance(config, DMDConfig)
        return config

    return make


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks are fastest on one thread, and the order of sums is then fixed."""
    torch.set_num_threads(1)
