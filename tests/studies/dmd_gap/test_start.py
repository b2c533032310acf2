"""The common state that students of fashion begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.engine import checkpoints
from carv_distill.errors import UserError
from carv_distill.files import write_json
from studies import runs
from studies.dmd_gap.settings import FASHION, START
from studies.dmd_gap.start import SEED, UPDATES, main, make_start


def test_student_and_fake_score_are_kept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("student.network.w", "fake.network.w", "teacher.network.w")
    state = {f"objective.{name}": torch.randn(3) for name in names} | {"objective.fake.n": torch.tensor(7)}

    def train_all(trained: list[runs.TrainingRun], config: Path, folder: Path, **_: Any) -> None:
        (run,) = trained
        assert f"seed={SEED}" in run.words
        assert "dmd.lr_decay=none" in run.words
        assert not any(word.startswith("dmd.start") for word in run.words)
        checkpoint = folder / run.name / f"checkpoints/newest-step={UPDATES}.ckpt"
        checkpoint.parent.mkdir(parents=True)
        torch.save({"state_dict": state}, checkpoint)
        report = {"student, 1 step": {"summary": {"fid": {"mean": 24.03}}}}
        write_json(folder / run.name / "fid.json", report)

    monkeypatch.setattr(runs, "train_all", train_all)

    def newest(folder: Path) -> tuple[Path, int]:
        return folder / f"newest-step={UPDATES}.ckpt", UPDATES

    monkeypatch.setattr(checkpoints, "newest_checkpoint", newest)
    make_start(tmp_path, tmp_path / "start.pt")
    kept = torch.load(tmp_path / "start.pt", weights_only=True)["state_dict"]
    assert set(kept) == set(state) - {"objective.teacher.network.w"}
    assert torch.equal(kept["objective.student.network.w"], state["objective.student.network.w"].half())
    assert kept["objective.fake.n"] == 7
    assert f"FID 24.0 after {UPDATES} updates" in capsys.readouterr().out
    monkeypatch.setattr(runs, "train_all", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(UserError, match=r"start\.pt is there already; remove it to make it anew"):
        make_start(tmp_path, tmp_path / "start.pt")


def test_every_training_of_fashion_begins_there_on_a_seed_of_its_own() -> None:
    assert f"dmd.start={START}" in FASHION.words
    assert f"dmd.start={START}" in FASHION.quick.words
    assert SEED not in {*FASHION.pilot_seeds, *range(FASHION.deciding)}


def test_a_place_that_takes_no_file_is_found_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "train_all", lambda *_, **__: pytest.fail("begun"))
    assert main(["--out", str(tmp_path), "--runs", str(tmp_path)]) == 2
    assert f"error: --out: {tmp_path} is a folder; name a file" in capsys.readouterr().err
