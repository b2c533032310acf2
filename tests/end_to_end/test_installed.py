"""The wheel, installed, used from an empty folder: it trains, evaluates and resumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", str(ROOT), "-w", str(folder / "wheel")]
    subprocess.run(build, check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.mark.slow
def test_it_trains_evaluates_and_resumes_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(installed)}

    def carv_distill(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "import sys; from carv_distill.cli import main; sys.exit(main())"]
        done = subprocess.run(
            [*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done

    where = carv_distill("train", "--help").stdout
    assert "--config" in where
    words = (
        "estimator.upstream=2",
        "dmd.fake_batch=2",
        "variance.every=0",
        "fid.every=0",
        "dmd.lr_decay=none",
    )
    words = (*words, "checkpoint.every=2", "trainer.accelerator=cpu")
    carv_distill("train", "--config", "dmd_carv", *words, "trainer.max_steps=2")
    carv_distill("train", "--config", "dmd_carv", *words, "trainer.max_steps=4", "--resume")
    shown = carv_distill("evaluate", "fid", "--images", "16", "--ranges", "1", "--device", "cpu").stdout
    assert "student," in shown
    run = tmp_path / "runs/dmd_carv"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert (run / "checkpoints/newest-step=4.ckpt").is_file()
    assert json.loads((run / "fid.json").read_text())["teacher, Heun 18"]["images"] == 16
    teacher = json.loads((run / "fid.json").read_text())["trained"]["config"]["teacher"]["path"]
    assert Path(teacher).is_relative_to(installed)
