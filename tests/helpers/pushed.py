"""Runs with a product to send, which nothing has trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from carv_distill.distillation.export.image_student import save_student, student_card
from carv_distill.tasks import load_config
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, raw_network

from .runs import as_run
from .small import SMALL
from .tiny_unet import tiny_unet

EDM = edm_scheduler_config(EDMSchedule(), 0.5)


def run_with_student(folder: Path, *words: str, step: int = 4) -> Path:
    """A run of digits, its student of an update, a grid of samples and its metrics."""
    run = as_run(load_config("dmd_carv", [*SMALL, f"folder={folder}/runs", *words]))
    torch.manual_seed(step)
    network = raw_network(tiny_unet(labels=10))
    save_student(run / "student", network, EDM, student_card(network, 10, {"updates": step, "R": 4, "K": 2}))
    (run / "summary.json").write_text(json.dumps({"last": {}, "product_step": step}))
    (run / "metrics.csv").write_text(f"step,seconds,fid/fid\n2,20.0,9.0\n{step},40.0,7.5\n")
    (run / "samples").mkdir()
    for at in (0, step, step + 2):
        Image.new("L", (8, 8), at).save(run / f"samples/{at:06d}.png")
    return run


def fid_json(run: Path, step: int = 4, **more: Any) -> None:
    """What `evaluate.py fid` leaves in a run."""
    summary = {
        "fid": {"mean": 3.25, "std": 0.5, "minimum": 3.0},
        "recall": {"mean": 0.5, "std": 0.01},
        "copied": {"mean": 0.06, "std": 0.01},
    }
    report = {
        "images": 1797,
        "seed_ranges": [[0, 1796], [1797, 3593]],
        "extractor": "digits",
        "reference": "digits",
        "summary": summary,
    }
    teacher = {**report, "summary": {"fid": {"mean": 0.6, "std": 0.1, "minimum": 0.5}}}
    named = {"command": [], "student, 1 step": report, "teacher, Heun 18": teacher, "floor": None}
    content = {**named, "run": str(run), "trained": {"product_step": step}, **more}
    (run / "fid.json").write_text(json.dumps(content))
