"""evaluate.py fid: which runs it measures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carv_distill.commands.fid import FID, FIDCommandOptions
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.runs import as_run


def test_a_run_of_prompts_alone_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red torus\n")
    folder = f"folder={tmp_path}"
    prompts = [folder, "data.name=captioned", "data.views=66", f"prompts.path={tmp_path}/prompts.txt"]
    images = as_run(load_config("dmd_carv", [folder]))
    alone = as_run(load_config("text_to_image/dmd_shapes", [*prompts, "fid.every=0"]))
    os.utime(images / "environment.json", (1, 1))
    assert FID.newest(FIDCommandOptions(runs=tmp_path)) == images
    with pytest.raises(UserError, match=rf"{alone}: FID is a distance from images, and this run has prompts"):
        FID.open(alone, FIDCommandOptions())
