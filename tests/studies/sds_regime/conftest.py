"""A run that takes seconds, as the study trains them."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.tasks import load_config, train
from studies.sds_regime.cells import CONFIG, training
from tests.helpers.small import ROOT


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of "a torus", seed 0, with coarse rays and voxels."""
    words = [*training("a torus", 0, 2).words, "scene.samples=4", "scene.resolution=8", "estimator.draws=1"]
    end = ["checkpoint.every=1", "export.frames=8", "export.mesh=8", "export.size=16"]
    where = [f"folder={tmp_path_factory.mktemp('regime')}", f"name={training('a torus', 0, 2).name}"]
    return train(load_config(ROOT / CONFIG, [*words, *end, *where]))
