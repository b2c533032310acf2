"""Influence from runs and teachers: the whole way, its stores, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carv_distill.attribution import models as subject
from carv_distill.attribution.draws import shared_draws
from carv_distill.attribution.figures import draw_influence
from carv_distill.attribution.gradients import SampleGradients
from carv_distill.attribution.measure import measure_influence
from carv_distill.attribution.models import learning_rate_at, load_subject
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.pilot import sampler_from_dict
from carv_distill.attribution.queries import read_queries
from carv_distill.attribution.report import influence_dict, influence_table
from carv_distill.data.images import load_images
from carv_distill.data.shapes import PromptedImages, shape_images
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.config import load_config
from carv_distill.engine.run import execute
from carv_distill.errors import UserError
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.attributed import FEW, few_digits, tiny_teacher
from tests.helpers.small import ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline


@pytest.fixture
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return tiny_teacher(tmp_path)


def options(teacher: str | None, **changes: Any) -> InfluenceOptions:
    plain: dict[str, Any] = {
        "teacher": teacher,
        "data": teacher and "digits",
        "queries": "data:3,14",
        "score": "cosine",
        "draws": 4,
        "groups": 2,
        "projection": "none",
        "proposal": "uniform",
        "noise": "iid",
        "chunk": 32,
    }
    return InfluenceOptions(**{**plain, **changes})


@pytest.mark.usefixtures("_few_digits")
def test_cosines_of_mean_gradients(tmp_path: Path, teacher: str) -> None:
    """Scores are those of an explicit loop over the sampler, draws and teacher that were named."""
    found = measure_influence(None, options(teacher), tmp_path / "out", "cpu")
    assert found is not None
    loaded = load_teacher(teacher)
    gradients = SampleGradients(loaded.denoiser, loaded.schedule)
    sampler = sampler_from_dict(json.loads((tmp_path / "out/store/sampler.json").read_text()))
    assert (sampler.strategy, sampler.noise) == ("stratified", "iid")
    draws = shared_draws(sampler, 4, 2, (1, 8, 8), 0)
    data = load_images("digits")
    x, y = data.images[:FEW], data.labels[:FEW]
    parts = [gradients(x, y, *(t[g] for t in (draws.u, draws.weight, draws.eps))) for g in range(2)]
    mean = (parts[0] + parts[1]).double() / 2
    across = (parts[0].double() @ parts[1].double().T + parts[1].double() @ parts[0].double().T) / 2
    expected = across[[3, 14]] / (mean[[3, 14]].norm(dim=1)[:, None] * mean.norm(dim=1))
    scores = found.influence.scores
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[0, 3] = own[1, 14] = True
    assert torch.allclose(scores[~own], expected[~own], atol=1e-6)
    assert (scores[own] == -torch.inf).all()
    assert found.scores == tmp_path / "out/cosine.npz"

    written = draw_influence(found, 5, tmp_path / "out")
    assert [p.name for p in written] == ["cosine.png"]
    assert all(p.stat().st_size > 5000 for p in written)
    said = influence_table(found, 3)
    assert "nothing is known" in str(said[1])  # two groups: none to hold against the other two
    content = influence_dict(found, 5)
    assert content["queries"][0]["top"][0]["train"] == int(found.influence.top(1)[0])
    assert json.loads(json.dumps(content, allow_nan=False))["reliability"] == []
    biased = measure_influence(None, options(teacher, debias=False), tmp_path / "out", "cpu")
    assert biased is not None
    naive = torch.nn.functional.cosine_similarity(mean[[3, 14], None], mean[None], dim=-1)
    assert torch.allclose(biased.influence.scores[~own], naive[~own], atol=1e-6)
    assert [p.name for p in draw_influence(biased, 5, tmp_path / "out")] == ["cosine.png", "cosine_draws.png"]
    assert "bias and all" in str(influence_table(biased, 3)[1])


@pytest.mark.usefixtures("_few_digits")
def test_a_job_stopped_half_way_goes_on_and_another_set_up_is_refused(tmp_path: Path, teacher: str) -> None:
    asked = options(teacher, projection="countsketch", size=40, proposal="importance", noise="auto")
    first = measure_influence(None, asked, tmp_path / "out", "cpu")
    block = tmp_path / "out/store/block-000001.npy"
    kept = block.read_bytes()
    block.unlink()
    again = measure_influence(None, asked, tmp_path / "out", "cpu")
    assert block.read_bytes() == kept
    assert first is not None
    assert again is not None
    assert torch.equal(first.influence.scores, again.influence.scores)
    trak = measure_influence(None, replace(asked, score="trak"), tmp_path / "out", "cpu")
    assert trak is not None
    assert not torch.allclose(trak.influence.scores[0, :3], first.influence.scores[0, :3])

    for change, name in (
        ({"teacher": tiny_teacher(tmp_path, 1)}, "model"),
        ({"seed": 1}, "projection"),
        ({"draws": 8}, "draws"),
        ({"parameters": ["*conv_in*"]}, "parameters"),
        ({"noise": "iid"}, "draws"),
        ({"projection": "rademacher"}, "projection"),
        ({"precision": "bf16"}, "precision"),
    ):
        with pytest.raises(UserError, match=rf"store: made with {name} .*--store"):
            measure_influence(None, replace(asked, **change), tmp_path / "out", "cpu")  # type: ignore[arg-type]
    measure_influence(None, asked, tmp_path / "out", "cpu")


@pytest.mark.usefixtures("_few_digits")
def test_tracin_sums_over_the_checkpoints_of_a_teachers_training(tmp_path: Path) -> None:
    config = load_config(
        ROOT / "configs/teacher_digits.yaml",
        ["teacher.channels=[8]", "teacher.head_channels=8", "teacher.batch=4", "teacher.warmup=1",
         "trainer.max_steps=4", "checkpoint.every=2", "fid.every=0",
         "trainer.accelerator=cpu", f"folder={tmp_path}"],
    )  # fmt: skip
    run = execute(config)
    asked = options(None, score="tracin", checkpoints=[2, 4], queries="samples:2", parameters=["*conv_in*"])
    found = measure_influence(run, asked, tmp_path / "out", "cpu")
    assert found is not None
    total: torch.Tensor | float = 0.0
    for step in (2, 4):
        whole = load_subject(run, "cpu", step)
        assert whole.schedule == LogNormalSchedule(-0.5, 1.6, 0.02, 20.0)
        gradients = SampleGradients(whole.denoiser, whole.schedule, ["*conv_in*"])
        sampler = sampler_from_dict(
            json.loads((tmp_path / f"out/store/step={step}/sampler.json").read_text())
        )
        draws = shared_draws(sampler, 4, 2, (1, 8, 8), 0)

        def across(
            a: subject.Samples, b: subject.Samples, g: SampleGradients = gradients, d: Any = draws
        ) -> torch.Tensor:
            parts = [
                [g(s.x, s.cond, *(t[i] for t in (d.u, d.weight, d.eps))).double() for i in range(2)]
                for s in (a, b)
            ]
            return (parts[0][0] @ parts[1][1].T + parts[0][1] @ parts[1][0].T) / 2

        rate = learning_rate_at(run, step)
        assert rate > 0 if step == 2 else rate >= 0
        total = total + rate * across(found.queries, whole.training)
    assert isinstance(total, torch.Tensor)
    assert torch.allclose(found.influence.scores, total, rtol=1e-4, atol=1e-9)
    with pytest.raises(UserError, match=r"holds no checkpoint of step 3; there are \[2, 4\]"):
        measure_influence(run, replace(asked, checkpoints=[3]), tmp_path / "out3", "cpu")


@pytest.mark.usefixtures("_few_digits")
def test_a_distillation_is_asked_about_its_students_samples(
    tmp_path: Path, small_config: Callable[..., DMDConfig]
) -> None:
    run = execute(small_config("trainer.max_steps=2"))
    whole = load_subject(run, "cpu")
    queries = read_queries("samples:3", whole)
    assert queries.words == ["0", "1", "2"]
    student = load_teacher(run / "student")
    z = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    top = student.schedule.sigma_max
    made = student.denoiser(top * z, torch.full((1,), top), torch.tensor([2]))
    assert torch.allclose(queries.x[2:], made, atol=1e-5)
    with pytest.raises(UserError, match=r"--checkpoints: .* is of task dmd"):
        load_subject(run, "cpu", 2)
    with pytest.raises(UserError, match=r"--teacher: t is given beside the run .*; one of the two is meant"):
        measure_influence(run, options("t"), tmp_path / "out", "cpu")


def test_latents_are_encoded_once_and_prompts_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = shape_images(8, 1)
    few = PromptedImages(pictures.images[:6], ["a red torus, side view", "a blue cube, front view"] * 3)
    monkeypatch.setattr(subject, "shape_images", lambda *size: few)
    folder = save_tiny_pipeline(tmp_path / "pipeline")
    asked = options(str(folder), data="shapes", queries="samples:2")
    found = measure_influence(None, asked, tmp_path / "out", "cpu")
    assert found is not None
    assert found.influence.scores.shape == (2, 6)
    assert found.training.x.shape == (6, 4, 4, 4)
    kept = tmp_path / "out/store/latents.safetensors"
    before = kept.stat().st_mtime_ns
    again = measure_influence(None, asked, tmp_path / "out", "cpu")
    assert again is not None
    assert torch.equal(again.influence.scores, found.influence.scores)
    assert kept.stat().st_mtime_ns == before


def test_options_that_do_not_fit_are_named() -> None:
    for change, said in (
        ({"data": None}, "--teacher and --data go together"),
        ({"draws": 5}, "--draws: 5 is no multiple of --groups, 2"),
        ({"groups": 1}, "--groups: products across groups need 2 or more"),
        ({"score": "tracin", "checkpoints": [1, 2]}, "--checkpoints: they are those of a teacher's run"),
        ({"normalise": "draw", "score": "inner"}, "--normalise: draw is for --score cosine"),
        ({"score": "tracin"}, "--score: tracin needs --checkpoints"),
        ({"checkpoints": [1]}, "--checkpoints: they are for --score tracin"),
        ({"score": "trak", "projection": "countsketch", "debias": True}, "--debias: trak has no debiased"),
        ({"score": "trak"}, "--projection: trak"),
        ({"strategy": "paired", "draws": 6}, "--strategy: paired needs an even number .* found 3"),
        ({"scores": Path("scores.csv")}, "--scores: scores.csv must end in"),
    ):
        with pytest.raises(UserError, match=said):
            options("teacher", **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--data: 'cats' is not one of digits, solids, shapes"):
        subject.load_model("teacher", "cats", "cpu")


def evaluate(*words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), "evaluate.py", "influence", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.ddp
def test_two_processes_make_the_matrix_of_one(tmp_path: Path, teacher: str) -> None:
    """From a shell: tables, pictures, JSON and scores; then the same by torchrun, equal to the bit."""
    words = (
        f"--teacher {teacher} --data digits --queries data:3,14 --draws 4 --groups 2 --parameters *conv_in* "
        "--size 32 --chunk 64 --noise iid --proposal uniform"
    ).split()
    done = evaluate(*words, "--out", str(tmp_path / "one.json"))
    assert done.returncode == 0, done.stderr
    assert "Most influential training samples" in done.stdout
    assert "needs" not in done.stderr
    done = evaluate(*words, "--out", str(tmp_path / "two.json"), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Most influential") == 1
    blocks = sorted((tmp_path / "one/store").glob("block-*.npy"))
    assert len(blocks) == -(-1797 // 64)
    for block in blocks:
        assert block.read_bytes() == (tmp_path / "two/store" / block.name).read_bytes()
    with np.load(tmp_path / "one/trak.npz") as one, np.load(tmp_path / "two/trak.npz") as two:
        assert np.array_equal(one["scores"], two["scores"], equal_nan=True)
    result = json.loads((tmp_path / "two.json").read_text())
    assert result["about"]["features"][0]["sampler"] == {"strategy": "stratified", "noise": "iid"}


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "x.json")]
    for words, said in (
        (["--teacher", "checkpoints/digits-teacher", *out], "--teacher and --data go together"),
        (["--teacher", "checkpoints/digits-teacher", "--data", "digits"], "--out: without a run"),
        (["--teacher", "checkpoints/digits-teacher", "--data", "digits", "--parameters", "x", *out],
         "--parameters: 'x' matches none"),
        (["--run", str(tmp_path), "--teacher", "t", "--data", "digits", *out], "is not a run's folder"),
        (["--damping", "-1", *out], "--damping: '-1' is not a number from 0 on"),
    ):  # fmt: skip
        done = evaluate(*words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert said in done.stderr
    assert not (tmp_path / "x.json").exists()
