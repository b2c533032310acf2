"""The examples of docs/extending.md run, block after block."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from carv_distill.carv import STRATEGIES
from carv_distill.data.images import load_images
from carv_distill.data.options import DATA_SETS
from carv_distill.teachers.teacher import NETWORKS, load_teacher
from tests.helpers.small import ROOT


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [(table, dict(table)) for table in (STRATEGIES, DATA_SETS, NETWORKS)]
    module = ModuleType("extending")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "extending", module)
    module.__dict__["folder"] = tmp_path
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    assert len(blocks) == 7
    try:
        for block in blocks:
            exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), module.__dict__)
        images = load_images("stripes")
        assert images.images.mean().abs() < 1e-6
        assert images.labels.bincount().tolist() == [32, 32]
        assert torch.isfinite(torch.tensor(float(load_teacher(tmp_path / "flat").schedule.sigma_max)))
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)  # type: ignore[arg-type]
