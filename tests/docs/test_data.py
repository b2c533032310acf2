"""The examples of docs/data.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from tests.helpers.captioned_files import TEXTS, beside, photos
from tests.helpers.image_files import as_folder
from tests.helpers.small import ROOT


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(as_folder(tmp_path, photos() | beside())).rename(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "indices": torch.tensor([3, 0]),
        "folder": tmp_path / "latents",
        "key": "weights and pictures",
        "encode": lambda x: (avg_pool2d(x, 8), torch.ones(len(x), 3, 64, 64)),
        "noise": torch.zeros(2, 3, 64, 64),
    }
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["captions"] == [TEXTS["b/3"], TEXTS["a/0"]]
    assert torch.equal(names["x"], avg_pool2d(names["images"], 8))
