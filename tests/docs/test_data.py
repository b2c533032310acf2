"""The examples of docs/data.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from tests.helpers.captioned_files import TEXTS, beside, photos
from tests.helpers.fashion_files import save_fashion_mnist
from tests.helpers.image_files import as_folder
from tests.helpers.small import ROOT
from tests.helpers.video_files import counted, video_bytes


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(as_folder(tmp_path, photos() | beside())).rename(tmp_path / "photos")
    (tmp_path / "films").mkdir()
    for number in range(4):
        content = video_bytes(counted(17 + number, (96, 64)), fps=8)
        (tmp_path / f"films/{number}.mp4").write_bytes(content)
        (tmp_path / f"films/{number}.txt").write_text("a square that grows lighter")
    save_fashion_mnist(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "indices": torch.tensor([3, 0]),
        "folder": tmp_path / "latents",
        "key": "weights and pictures",
        "encode": lambda x: (avg_pool2d(x, 8), torch.ones(len(x), 3, 64, 64)),
        "noise": torch.zeros(2, 3, 64, 64),
    }
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert names["captions"] == [TEXTS["b/3"], TEXTS["a/0"]]
    assert names["clips"].shape == (2, 17, 3, 64, 96)
    assert names["names"] == ["Dress", "T-shirt/top"]
    assert (tmp_path / "clips.png").is_file()
    assert (tmp_path / "clip.mp4").is_file()
    assert torch.equal(names["x"], avg_pool2d(names["images"], 8))
