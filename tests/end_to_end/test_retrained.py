"""evaluate.py lds and remove, by models of one's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.attributed import tiny_teacher
from tests.helpers.forked import run


def held_against(command: str, folder: Path, models: str) -> subprocess.CompletedProcess[str]:
    words = ("--influence", str(folder / "i.json"), "--models", str(folder / models), "--draws", "8")
    out = str(folder / f"{command}.json")
    return run("evaluate.py", command, *words, "--device", "cpu", "--out", out)


def test_scores_are_held_against_models_trained_anew(tmp_path: Path) -> None:
    """Losses are those of an explicit loop; the score and the percentage follow from them."""
    teachers = [Path(tiny_teacher(tmp_path, seed).path) for seed in range(6)]
    words = f"--teacher {teachers[0]} --data digits --queries data:3,14 --among 40 --draws 4 --groups 2"
    more = "--parameters *conv_in* --size 32 --noise iid --proposal uniform --device cpu"
    done = run("evaluate.py", "influence", *words.split(), *more.split(), "--out", str(tmp_path / "i.json"))
    assert done.returncode == 0, done.stderr
    models = [{"model": str(t), "with": list(range(n, 1797, 2 + n))} for n, t in enumerate(teachers[:4])]
    (tmp_path / "models.jsonl").write_text("\n".join(map(json.dumps, models)))
    asked = (
        "--influence",
        str(tmp_path / "i.json"),
        "--models",
        str(tmp_path / "models.jsonl"),
        "--draws",
        "8",
    )
    done = run("evaluate.py", "lds", *asked, "--device", "cpu", "--out", str(tmp_path / "lds.json"))
    assert done.returncode == 0, done.stderr
    assert "over 4 models and 2 queries: " in done.stdout
    found = json.loads((tmp_path / "lds.json").read_text())
    assert -1 <= found["lds"] <= 1
    data, base = load_images("digits"), load_teacher(teachers[0])
    draws = (
        NoiseLevelSampler(Proposal.uniform()).draw(1, 8, (1, 8, 8), stream(0, "attribution", "losses")).row(0)
    )
    queries = SampleBatch(data.images[[3, 14]], data.labels[[3, 14]])
    for teacher, row in zip(teachers, found["losses"], strict=False):
        exact = SampleLoss(load_teacher(teacher).denoiser, base.schedule).of_samples(queries, draws)
        torch.testing.assert_close(torch.tensor(row), exact, rtol=1e-5, atol=0)

    top = [
        {"model": str(teachers[4]), "without": [1, 2], "query": 1},
        {"model": str(teachers[5]), "without": [5]},
    ]
    (tmp_path / "removed.jsonl").write_text("\n".join(map(json.dumps, top)))
    asked = (
        "--influence",
        str(tmp_path / "i.json"),
        "--models",
        str(tmp_path / "removed.jsonl"),
        "--draws",
        "8",
    )
    done = run("evaluate.py", "remove", *asked, "--device", "cpu", "--out", str(tmp_path / "remove.json"))
    assert done.returncode == 0, done.stderr
    removed = json.loads((tmp_path / "remove.json").read_text())
    (with_top, _), (_, without) = [(row[1], row[1]) for row in removed["losses"]]
    assert removed["percent"] == pytest.approx(100 * (with_top / without - 1))
    done = held_against("lds", tmp_path, "removed.jsonl")
    assert done.returncode == 2
    assert "a correlation takes 4 or more" in done.stderr
