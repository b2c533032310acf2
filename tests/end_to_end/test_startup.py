"""What is wrong is told before anything heavy is loaded, and a run says its first word at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small import ROOT

HEAVY = (
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "scipy",
    "numpy",
    "matplotlib",
    "sklearn",
    "pandas",
)
DMD = ("train", "--config", "configs/dmd_carv.yaml")


def loaded_by(*words: str) -> tuple[int, str, set[str]]:
    """(exit status, standard error, heavy packages in memory) of a command in an interpreter of its own."""
    script = (
        "import sys\nfrom carv_distill.cli import main\nsys.argv[1:] = " + repr(list(words)) + "\n"
        "try:\n    status = main()\nexcept SystemExit as stop:\n    status = stop.code or 0\n"
        f"print('loaded', *(m for m in {HEAVY} if m in sys.modules))\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stderr, set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "words", [("train", "--help"), ("evaluate", "--help"), ("evaluate", "variance", "-h")]
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    status, _, loaded = loaded_by(*words)
    assert (status, loaded) == (0, set())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*DMD, "estimator.drws=4"), "unknown key estimator.drws"),
        ((*DMD, "estimator.strategy=stratifed"), "'stratifed' is not one of iid, stratified"),
        ((*DMD, "teacher.path=checkpoints/nowhere"), "teacher.path: checkpoints/nowhere is not a folder"),
        ((*DMD, "name=nowhere", "--resume"), "there is no run runs/nowhere to resume"),
        (("train", "--config", "dmd_crv"), "--config: dmd_crv is not a file, nor the name of a shipped"),
        (("evaluate", "variance", "--pairs", "1"), "'1' is not a whole number from 3 on"),
        (("evaluate", "fid", "--run", "nowhere"), "nowhere is not a run's folder"),
        (("evaluate", "influence", "--draws", "5"), "--draws: 5 is no multiple of --groups, 8"),
    ],
)
def test_a_mistake_loads_nothing_heavy(words: tuple[str, ...], said: str) -> None:
    status, error, loaded = loaded_by(*words)
    assert (status, loaded, len(error.splitlines())) == (2, set(), 1)
    assert said in error


def test_a_run_says_its_first_word_before_torch_is_loaded(tmp_path: Path) -> None:
    script = (
        "import builtins, sys\nfrom carv_distill.commands.train import main\nload = builtins.__import__\n"
        "def watched(name, *rest, **more):\n    if name == 'torch':\n        sys.exit('torch comes')\n"
        "    return load(name, *rest, **more)\nbuiltins.__import__ = watched\n"
        f"main(['--config', 'configs/dmd_carv.yaml', 'folder={tmp_path}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    first, last = done.stderr.splitlines()[0], done.stderr.splitlines()[-1]
    assert "dmd_carv: loading torch, diffusers and Lightning" in first
    assert last == "torch comes"
    assert not list(tmp_path.iterdir())
