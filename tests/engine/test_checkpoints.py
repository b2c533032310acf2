"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from carv_distill.engine.checkpoints import AtomicCheckpointIO, Checkpoints, checkpoint_at, newest_checkpoint
from carv_distill.engine.folder import checkpoints_in
from carv_distill.engine.options import CheckpointOptions
from carv_distill.errors import UserError
from tests.helpers.small import largest_file


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"global_step": 1, "w": torch.zeros(10)}, path)
    before = path.read_bytes()
    with largest_file(100_000), pytest.raises(UserError, match=r"could not be written.*previous one is kept"):
        writer.save_checkpoint({"global_step": 2, "w": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def content(step: int, **changes: Any) -> dict[str, Any]:
    """As Lightning's checkpoints are."""
    kept = {"Checkpoints": {"best": {}, "values": {"seed": 0}}}
    parts: dict[str, Any] = {"optimizer_states": [{}], "lr_schedulers": [], "loops": {}, "callbacks": kept}
    parts |= {"global_step": step, "state_dict": {"w": torch.arange(1000.0)}, **changes}
    return {key: value for key, value in parts.items() if value is not None}


def test_the_newest_whole_checkpoint_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By steps, not by name or time; truncated and flipped files are named and passed over."""
    assert newest_checkpoint(tmp_path) is None
    writer = AtomicCheckpointIO()
    paths = {s: tmp_path / f"{'best' if s == 20 else 'newest'}-step={s}.ckpt" for s in (10, 30, 20, 40)}
    for step, path in paths.items():
        writer.save_checkpoint(content(step), path)
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    assert newest_checkpoint(tmp_path) == (paths[40], 40)
    for step in (10, 20, 30):  # those below it are not read: each may have gigabytes
        paths[step].rename(paths[step].with_suffix(".kept"))
        paths[step].write_bytes(b"damaged")
    assert newest_checkpoint(tmp_path) == (paths[40], 40)
    assert not caplog.text
    for step in (10, 20, 30):
        paths[step].with_suffix(".kept").rename(paths[step])
    whole = paths[40].read_bytes()
    paths[40].write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(paths[30].read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    paths[30].write_bytes(flipped)
    assert newest_checkpoint(tmp_path) == (paths[20], 20)
    assert "newest-step=30.ckpt is damaged" in caplog.text
    assert "newest-step=40.ckpt is damaged" in caplog.text


def test_any_kept_checkpoint_is_found_by_its_step(tmp_path: Path) -> None:
    """Whether it was kept as one of the newest or for its FID, and where one of the two is damaged."""
    writer = AtomicCheckpointIO()
    newest, best, both = (
        tmp_path / name for name in ("newest-step=4.ckpt", "best-step=2.ckpt", "best-step=4.ckpt")
    )
    for path, step in ((newest, 4), (best, 2), (both, 4)):
        writer.save_checkpoint(content(step), path)
    assert checkpoint_at(tmp_path, 2) == (best, 2)
    assert checkpoint_at(tmp_path, None) == (newest, 4)
    with pytest.raises(UserError, match=r"no checkpoint of step 3; there are \[2, 4\]"):
        checkpoint_at(tmp_path, 3)
    for path, other in ((newest, both), (both, newest)):
        whole = path.read_bytes()
        path.write_bytes(b"damaged")
        assert checkpoint_at(tmp_path, 4) == (other, 4)
        path.write_bytes(whole)
    best.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"best-step=2\.ckpt is damaged"):
        checkpoint_at(tmp_path, 2)


@pytest.mark.parametrize(
    "name", ["newest-step=8 (copy).ckpt", "newest-step=8.ckpt.bak", "newest-step=x.ckpt"]
)
def test_a_stray_copy_is_passed_over(name: str, tmp_path: Path) -> None:
    writer = AtomicCheckpointIO()
    writer.save_checkpoint(content(4), tmp_path / "newest-step=4.ckpt")
    writer.save_checkpoint(content(8), tmp_path / name)
    assert newest_checkpoint(tmp_path) == (tmp_path / "newest-step=4.ckpt", 4)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (content(8, optimizer_states=None), "it lacks optimizer_states"),
        (content(8, optimizer_states=[]), "it lacks its optimiser"),
        (content(4), "it is of update 4"),
        ({"state_dict": {}}, "it lacks optimizer_states, lr_schedulers, loops, callbacks, global_step"),
        ([1, 2], "it lacks state_dict"),
        (torch.zeros(2), "it lacks state_dict"),
        (content(8, callbacks={"Checkpoints": {"values": {"seed": 1}}}), "seed is 1 there, 0 here"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_this_run_is_refused(found: Any, why: str, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(found, tmp_path / "newest-step=8.ckpt")
    with pytest.raises(UserError, match=f"is no checkpoint of this run: {re.escape(why)}"):
        newest_checkpoint(tmp_path, {"seed": 0})


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"x" * 1000, b"\0" * 100_000])
def test_bytes_that_are_no_checkpoint_are_passed_over(damage: bytes, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(content(4), tmp_path / "newest-step=4.ckpt")
    (tmp_path / "newest-step=8.ckpt").write_bytes(damage)
    assert newest_checkpoint(tmp_path) == (tmp_path / "newest-step=4.ckpt", 4)


def keep(folder: Path, options: CheckpointOptions, steps: range) -> Checkpoints:
    """What a run keeps, from an update on to another."""

    def save(path: Path) -> None:
        AtomicCheckpointIO().save_checkpoint(content(trainer.global_step), path)

    checkpoints = Checkpoints(folder, options, {})
    trainer: Any = SimpleNamespace(max_steps=100, callbacks=[], save_checkpoint=save)
    trainer.global_step = steps.start
    checkpoints.on_train_start(trainer, None)
    for trainer.global_step in steps[1:]:
        checkpoints.on_train_batch_end(trainer, None)
    return checkpoints


def test_a_disk_without_symbolic_links_has_no_last_checkpoint_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Colab's Drive, exFAT and some CIFS are; a link of before, copied as a file, would be another one."""

    def refused(path: Path, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    (tmp_path / "last.ckpt").write_bytes(b"older")
    keep(tmp_path, CheckpointOptions(every=2), range(7))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["newest-step=4.ckpt", "newest-step=6.ckpt"]
    assert newest_checkpoint(tmp_path) == (tmp_path / "newest-step=6.ckpt", 6)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith(
        "last.ckpt: a symbolic link cannot be made there (Operation not permitted); nothing "
        "needs it, --resume neither"
    )


def test_the_folder_is_listed_when_there_is_something_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, for what an attempt before this one left, and after each save; not at every update."""
    for name in ("newest-step=4", "newest-step=6", "newest-step=9", "best-step=5"):
        (tmp_path / f"{name}.ckpt").touch()
    listed: list[list[str]] = []

    def listing(folder: Path) -> list[tuple[Path, int]]:
        listed.append(sorted(path.name for path in folder.glob("*-step=*.ckpt")))
        return checkpoints_in(folder)

    monkeypatch.setattr("carv_distill.engine.checkpoints.checkpoints_in", listing)
    keep(tmp_path, CheckpointOptions(every=2), range(6, 12))
    assert listed == [
        ["best-step=5.ckpt", "newest-step=4.ckpt", "newest-step=6.ckpt", "newest-step=9.ckpt"],
        ["newest-step=4.ckpt", "newest-step=6.ckpt", "newest-step=8.ckpt"],
        ["newest-step=10.ckpt", "newest-step=6.ckpt", "newest-step=8.ckpt"],
    ]
    assert sorted(p.name for p in tmp_path.glob("*-step=*")) == ["newest-step=10.ckpt", "newest-step=8.ckpt"]
    assert (tmp_path / "last.ckpt").resolve().name == "newest-step=10.ckpt"
