"""A small run to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.tasks import load_config, train
from tests.helpers.runs import sds_words
from tests.helpers.tiny_latent import save_tiny_pipeline


@pytest.fixture(scope="session")
def viewed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of six updates, with checkpoints of four and six."""
    folder = tmp_path_factory.mktemp("viewed")
    teacher = save_tiny_pipeline(folder / "teacher")
    return train(load_config("sds_carv", sds_words(teacher, folder / "runs")))
