"""What several test folders share: small configurations that run in seconds."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import load_config

# Before their first import: a failed assertion there says what it found.
pytest.register_assert_rewrite("tests.helpers")

from tests.helpers.fake_hub import FakeHub  # noqa: E402
from tests.helpers.small import ROOT, SMALL  # noqa: E402


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., DMDConfig]:
    """dmd_carv.yaml shrunk to seconds, with a run folder of the test's own; takes overrides."""

    def make(*overrides: str) -> DMDConfig:
        words = (*SMALL, f"folder={tmp_path}/runs", *overrides)
        config = load_config(ROOT / "configs/dmd_carv.yaml", words)
        assert isinstance(config, DMDConfig)
        return config

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub that a test's huggingface_hub sees."""
    hub = FakeHub(tmp_path / "fetched")
    hub.install(monkeypatch)
    return hub


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks are fastest on one thread, and the order of sums is then fixed."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _level_of_messages() -> Iterator[None]:
    """A test that runs as another rank, which says warnings alone, leaves the next one's messages alone."""
    ours = logging.getLogger("carv_distill")
    before = ours.level
    yield
    ours.setLevel(before)
