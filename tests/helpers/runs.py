"""Small runs: what they are made with, and whether two are the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

from carv_distill.engine.config import to_dict
from carv_distill.engine.environment import LAYOUT
from carv_distill.engine.metrics import read_metrics
from carv_distill.engine.options import RunConfig

from .small import ROOT

CLIP = ROOT / "checkpoints/shapes-teacher/clip"


def as_run(config: RunConfig, checkpoint: bool = True) -> Path:
    """What others look at first of a run that nothing has trained; its folder."""
    folder = Path(config.folder, config.name)
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints/newest-step=1.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    environment = {"layout": LAYOUT, "git": {}, "packages": {}, "threads": 1, "shares": 1}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def networks(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and optimiser moments of a checkpoint, flat."""
    checkpoint = torch.load(folder / f"checkpoints/newest-step={step}.ckpt", weights_only=True)
    flat = dict(checkpoint["state_dict"])
    for i, optimizer in enumerate(checkpoint["optimizer_states"]):
        for j, state in optimizer["state"].items():
            flat |= {f"{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return flat


def without_seconds(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k != "seconds"}


def assert_same_run(a: Path, b: Path, step: int, same_files: bool = True) -> None:
    """Weights, moments, metrics, pictures, products and the kept files are equal; only seconds may differ."""
    left, right = networks(a, step), networks(b, step)
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []
    rows = [[without_seconds(r) for r in read_metrics(run / "metrics.csv")] for run in (a, b)]
    assert rows[0] == rows[1]
    last = [without_seconds(json.loads((run / "summary.json").read_text())["last"]) for run in (a, b)]
    assert last[0] == last[1]
    for name in ("samples", "figures", "student", "object", "teacher"):
        files, others = (
            sorted(p.relative_to(run) for p in (run / name).rglob("*") if p.is_file()) for run in (a, b)
        )
        assert files == others
        assert [n for n in files if (a / n).read_bytes() != (b / n).read_bytes()] == []
    kept = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (a, b)]
    assert same_files is (kept[0] == kept[1])


def sds_words(teacher: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"teacher.path={teacher}",
        f"folder={folder}",
        f"clip.model={CLIP}",
        "scene.size=8",
        "scene.resolution=8",
        "scene.samples=8",
        "estimator.draws=2",
        "trainer.max_steps=6",
        "trainer.log_every=1",
        "trainer.accelerator=cpu",
        "checkpoint.every=2",
        "clip.every=3",
        "clip.views=2",
        "preview.every=4",
        "export.frames=8",
        "export.size=16",
        "export.mesh=16",
        "sds.prompt=a red torus",
        *more,
    ]
