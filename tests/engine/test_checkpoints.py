"""Checkpoints are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.engine.checkpoints import AtomicCheckpointIO, newest_checkpoint
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


def test_the_newest_whole_checkpoint_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By steps, not by name or time; truncated and flipped files are named and passed over."""
    assert newest_checkpoint(tmp_path) is None
    writer = AtomicCheckpointIO()
    for name, step in (("c", 10), ("b", 30), ("a", 20), ("d", 40)):
        writer.save_checkpoint({"global_step": step, "w": torch.arange(1000.0)}, tmp_path / f"{name}.ckpt")
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    assert newest_checkpoint(tmp_path) == (tmp_path / "d.ckpt", 40)
    content = (tmp_path / "d.ckpt").read_bytes()
    (tmp_path / "d.ckpt").write_bytes(content[: len(content) // 2])
    flipped = bytearray((tmp_path / "b.ckpt").read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "b.ckpt").write_bytes(flipped)
    assert newest_checkpoint(tmp_path) == (tmp_path / "a.ckpt", 20)
    assert "b.ckpt is damaged" in caplog.text
    assert "d.ckpt is damaged" in caplog.text
