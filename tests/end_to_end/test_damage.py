"""Every file of a run's folder, damaged in every way: the answer is one line, or the right result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from carv_distill.commands.command import measure
from carv_distill.commands.fid import FID, FIDCommandOptions
from carv_distill.engine.folder import WRITTEN
from carv_distill.errors import UserError
from carv_distill.files import read_json
from carv_distill.tasks import load_config, train
from tests.helpers.runs import networks
from tests.helpers.small import ROOT, SMALL

T = TypeVar("T")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def replace(path: Path) -> None:
    path.write_text("something else\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    """What cannot be read, to root too."""
    path.unlink()
    path.mkdir()


DAMAGES = (cut, flip, zero, replace, empty, remove, a_folder)
WORDS = (*SMALL, "trainer.max_steps=4", "fid.every=2", "fid.images=32", "checkpoint.every=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("runs")
    run = train(load_config(ROOT / "configs/dmd_carv.yaml", (*WORDS, f"folder={folder}")))
    of_loggers = {"mlflow.json", "wandb", "wandb.json"}  # which were not asked for
    assert {p.name for p in run.iterdir()} == {*WRITTEN, "student"} - of_loggers
    return run


@pytest.fixture(scope="module")
def longer(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two updates more."""
    return go_on(copied(whole, tmp_path_factory.mktemp("longer")))


@pytest.fixture(scope="module")
def score(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    return fid(copied(whole, tmp_path_factory.mktemp("score")))


def copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / run.name, symlinks=True))


def go_on(run: Path) -> Path:
    words = (*WORDS, f"folder={run.parent}", f"name={run.name}", "trainer.max_steps=6")
    return train(load_config(ROOT / "configs/dmd_carv.yaml", words), resume=True)


def fid(run: Path) -> float:
    """By evaluate.py's own function."""
    measure(FID, FIDCommandOptions(run=run, device="cpu", images=32, ranges=1, no_teacher=True))
    mean: float = read_json(run / "fid.json")["student, 1 step"]["summary"]["fid"]["mean"]
    return mean


def outcome(work: Callable[[Path], T], run: Path) -> T | None:
    """What the work makes of a run; None where it refuses in one line."""
    try:
        return work(run)
    except (UserError, OSError) as refusal:
        if "\n" in str(refusal):
            raise
        return None


def assert_line_or_right(
    place: str, damage: Callable[[Path], None], run: Path, longer: Path, score: float
) -> None:
    """FID of the damaged run, then two more updates of it."""
    damage(run / place)
    # a configuration is text: a digit that became another one is another configuration
    assert outcome(fid, run) in (None, score) or place == "config.yaml"
    if (again := outcome(go_on, run)) is not None:
        a, b = networks(again, 6), networks(longer, 6)
        assert [k for k in b if not torch.equal(a[k], b[k])] == []
        weights = "student/unet/diffusion_pytorch_model.safetensors"
        assert (again / weights).read_bytes() == (longer / weights).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "damage"),
    [
        ("config.yaml", flip),
        ("environment.json", zero),
        ("metrics.csv", flip),
        ("summary.json", replace),
        ("checkpoints/newest-step=4.ckpt", flip),
        ("student/unet/diffusion_pytorch_model.safetensors", flip),
        ("student/unet/config.json", cut),
        ("run.lock", a_folder),
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_a_damaged_file(
    place: str, damage: Callable[[Path], None], whole: Path, longer: Path, score: float, tmp_path: Path
) -> None:
    assert_line_or_right(place, damage, copied(whole, tmp_path), longer, score)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_every_file_damaged(
    damage: Callable[[Path], None], whole: Path, longer: Path, score: float, tmp_path: Path
) -> None:
    places = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and not p.is_symlink()]
    assert len(places) > 15
    for i, place in enumerate(sorted(places)):
        assert_line_or_right(str(place), damage, copied(whole, tmp_path / str(i)), longer, score)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_one_line(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path)
    (run / "config.yaml").chmod(0)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        fid(run)
