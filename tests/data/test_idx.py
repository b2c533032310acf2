"""idx files, whole and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.data.idx import read_idx
from carv_distill.errors import UserError
from tests.helpers.fashion_files import idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
PACKED = gzip.compress(idx(ARRAY), mtime=0)  # without the time, the same in every process


@pytest.mark.parametrize("content", [idx(ARRAY), PACKED], ids=["plain", "gzip"])
def test_bytes_come_back_whatever_the_file_is_called(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert torch.equal(read_idx(tmp_path / "x", 3), torch.from_numpy(ARRAY.copy()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx(ARRAY)[:-1], "x is damaged: 23 bytes, its header says 2×3×4"),
        (idx(ARRAY) + b"\0", "x is damaged: 25 bytes, its header says 2×3×4"),
        (idx(ARRAY)[:9], "x begins with 00 00 08 03; an idx file of bytes in 3 dimensions begins"),
        (idx(ARRAY[0]), "x begins with 00 00 08 02; .* begins with 00 00 08 03 and their sizes"),
        (b"\0\0\x0d\3" + bytes(12), "x begins with 00 00 0d 03"),
        (b"\0\0\x08\3" + b"\xff" * 12, "x is damaged: 0 bytes, its header says 4294967295×"),
        (b"<html>", "x begins with 3c 68 74 6d"),
        (b"", "x begins with nothing"),
        (PACKED[:-9], "x is damaged: not a whole gzip file"),
        (b"\x1f\x8b" + bytes(20), "x is damaged: not a whole gzip file"),
        (PACKED[:-8] + bytes(8), "x is damaged: not a whole gzip file .*CRC"),
        (PACKED[:10] + b"\xff" * 20, "x is damaged: not a whole gzip file"),
    ],
    ids=[
        "short",
        "long",
        "cut header",
        "other dimensions",
        "floats",
        "other sizes",
        "a page",
        "empty",
        "cut gzip",
        "gzip of nothing",
        "gzip without its CRC",
        "gzip of noise",
    ],
)
def test_what_is_no_such_file_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_idx(tmp_path / "x", 3)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x: cannot be read \(No such file or directory\)"):
        read_idx(tmp_path / "x", 1)
