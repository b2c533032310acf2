"""The examples of docs/extending.md, written into a copy of the package as the page says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.small import ROOT


def test_every_block_works_where_the_page_puts_it(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("carv_distill", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "train.py", tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    assert [kind for kind, _ in blocks].count("diff") == 4
    uses = []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}

    def run(*words: str, text: str | None = None) -> None:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, input=text, text=True, capture_output=True, timeout=300
        )
        assert done.returncode == 0, done.stderr

    for kind, text in blocks:
        if kind == "diff":
            run("git", "apply", text=text)
        elif named := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            file = tmp_path / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        elif kind == "python":
            uses.append(text)
    commands = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    assert len(commands) == 2
    started = ["from carv_distill.commands.train import main"]  # all in one process, which loads torch once
    for command in commands:
        python, script, *words = shlex.split(command)
        assert (python, script) == ("python", "train.py")
        started.append(f"assert main({words!r}) == 0")
    run(sys.executable, "-c", "\n".join([*uses, *started]))
    mean = torch.load(tmp_path / "runs/mean_image/mean/mean.pt", weights_only=True)
    assert mean.shape == (1, 8, 8)
    assert (tmp_path / "runs/mean_image/checkpoints/newest-step=6.ckpt").is_file()
