"""Ranking from runs and teachers: the whole way, and its stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carv_distill.attribution.features.draws import shared_draws
from carv_distill.attribution.features.pilot import sampler_from_dict
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.measure import InfluenceResult, measure_influence
from carv_distill.attribution.models import prompted
from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.report.advice import verdict
from carv_distill.attribution.report.figures import draw_influence
from carv_distill.attribution.report.report import conclusions, influence_dict, influence_table
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, NoiseLevelSampler
from carv_distill.data.images import load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.solids import PromptedImages, prompted_solids
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, load_config, train
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.attributed import FEW, few_digits, tiny_teacher
from tests.helpers.small import ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline

OPTIONS = InfluenceOptions(
    queries="data:3,14",
    score="cosine",
    draws=4,
    groups=2,
    projection="none",
    strategy="stratified",
    proposal="uniform",
    noise="iid",
    chunk=32,
)


@pytest.fixture
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)


@pytest.fixture
def teacher(tmp_path: Path) -> TrainedModel:
    return tiny_teacher(tmp_path)


def measured(
    model: TrainedModel | Callable[[int | None], TrainedModel], options: InfluenceOptions, folder: Path
) -> InfluenceResult:
    trained = (lambda step: model) if isinstance(model, TrainedModel) else model
    result = measure_influence(trained, options, folder, "cpu")
    assert result is not None
    return result


def sampler_of(store: Path) -> NoiseLevelSampler:
    return sampler_from_dict(json.loads((store / "sampler.json").read_text()))


@pytest.mark.slow
@pytest.mark.usefixtures("_few_digits")
def test_cosines_of_mean_gradients(tmp_path: Path, teacher: TrainedModel) -> None:
    """Scores are those of an explicit loop over the sampler, draws and teacher that were named."""
    result = measured(teacher, OPTIONS, tmp_path / "out")
    loaded = load_teacher(teacher.path)
    gradients = VmapGradients(SampleLoss(loaded.denoiser, loaded.schedule))
    sampler = sampler_of(tmp_path / "out/store")
    assert (sampler.strategy, sampler.noise) == ("stratified", "iid")
    draws = shared_draws(sampler, 4, 2, (1, 8, 8), 0)
    data = load_images("digits")
    x, y = data.images[:FEW], data.labels[:FEW]
    parts = [gradients(SampleBatch(x, y), draws.row(g)) for g in range(2)]
    mean = (parts[0] + parts[1]).double() / 2
    across = (parts[0].double() @ parts[1].double().T + parts[1].double() @ parts[0].double().T) / 2
    expected = across[[3, 14]] / (mean[[3, 14]].norm(dim=1)[:, None] * mean.norm(dim=1))
    scores = result.ranking.scores
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[0, 3] = own[1, 14] = True
    assert torch.allclose(scores[~own], expected[~own], atol=1e-6)
    assert (scores[own] == -torch.inf).all()
    assert result.scores == tmp_path / "out/cosine.npz"

    drawn = draw_influence(result, 5, tmp_path / "out")
    assert [p.name for p in drawn] == ["cosine.png"]
    assert all(p.stat().st_size > 5000 for p in drawn)
    assert "Most influential of the 70 training samples" in str(influence_table(result, 3))
    assert conclusions(result) == []  # two groups: none to hold against the other two
    assert verdict(result, []).startswith("Whether the ranking agrees")
    assert result.seconds is not None
    assert 0 < result.seconds < 60
    assert (result.store, result.ranking.votes and result.ranking.votes.each) == (tmp_path / "out/store", 7)
    content = influence_dict(result, 5, [])
    assert content["queries"][0]["top"][0]["train"] == int(result.ranking.top(1)[0])
    assert json.loads(json.dumps(content, allow_nan=False))["reliability"] == []
    biased = measured(teacher, replace(OPTIONS, debias=False), tmp_path / "out")
    naive = torch.nn.functional.cosine_similarity(mean[[3, 14], None], mean[None], dim=-1)
    assert torch.allclose(biased.ranking.scores[~own], naive[~own], atol=1e-6)
    assert [p.name for p in draw_influence(biased, 5, tmp_path / "out")] == ["cosine.png", "cosine_draws.png"]
    assert "keeps an error" in conclusions(biased)[1]
    assert " 2 draws each correlate to " in verdict(biased, [])
    for options, said in (
        (replace(OPTIONS, votes=FEW), f"^--votes: {FEW} of {FEW} training samples .*1 to {FEW - 1}"),
        (replace(OPTIONS, votes=3, queries="data:3"), "^--votes: 3 is for several queries, found one"),
    ):
        with pytest.raises(UserError, match=said):
            measured(teacher, options, tmp_path / "out")


@pytest.mark.usefixtures("_few_digits")
def test_a_stopped_job_goes_on_and_another_set_up_is_refused(tmp_path: Path, teacher: TrainedModel) -> None:
    sketched = replace(OPTIONS, projection="countsketch", size=40, proposal="importance", noise="auto")
    first = measured(teacher, sketched, tmp_path / "out")
    block = tmp_path / "out/store/block-000001.npy"
    before = block.read_bytes()
    block.unlink()
    again = measured(teacher, sketched, tmp_path / "out")
    assert block.read_bytes() == before
    assert torch.equal(first.ranking.scores, again.ranking.scores)
    trak = measured(teacher, replace(sketched, score="trak"), tmp_path / "out")
    assert not torch.allclose(trak.ranking.scores[0, :3], first.ranking.scores[0, :3])

    content = np.load(block)
    block.unlink()
    measured(teacher, replace(sketched, backend="backward"), tmp_path / "out")
    np.testing.assert_allclose(np.load(block), content, rtol=1e-4, atol=1e-5 * np.abs(content).max())

    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": 1}, "--seed 0"),
        ({"draws": 8}, "--draws 4"),
        ({"parameters": ("*conv_in*",)}, "another --parameters"),
        ({"noise": "iid"}, '--noise "auto"'),
        ({"projection": "rademacher"}, '--projection "countsketch"'),
        ({"precision": "bf16"}, '--precision "fp32"'),
    ]
    for change, name in changes:
        with pytest.raises(UserError, match=rf"store: made with {name}.*--store"):
            measured(teacher, replace(sketched, **change), tmp_path / "out")
    with pytest.raises(UserError, match="store: made with --among or --data 70, asked for now is 8; give"):
        measured(teacher, replace(sketched, among=8), tmp_path / "out")
    with pytest.raises(UserError, match=r"^--among: 71 of the 70 training samples .*allowed: 1 to 70"):
        measured(teacher, replace(sketched, among=71), tmp_path / "new")
    with pytest.raises(UserError, match=r"store: made with another --teacher or --run .*--store"):
        measured(tiny_teacher(tmp_path, 1), sketched, tmp_path / "out")
    measured(teacher, sketched, tmp_path / "out")
    manifest = tmp_path / "out/store/store.json"
    before_names = json.loads(manifest.read_text())
    del before_names["fingerprint"]["projection"]["by"]  # as of features of whole gradients
    manifest.write_text(json.dumps(before_names))
    with pytest.raises(UserError, match=r"store: made with another way to project .*--store"):
        measured(teacher, sketched, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("_few_digits")
def test_tracin_sums_over_the_checkpoints_of_a_teachers_training(tmp_path: Path) -> None:
    config = load_config(
        ROOT / "configs/teacher_digits.yaml",
        ["training.channels=[8]", "training.head_channels=8", "training.batch=4", "training.warmup=1",
         "trainer.max_steps=4", "checkpoint.every=2", "fid.every=0",
         "trainer.accelerator=cpu", f"folder={tmp_path}"],
    )  # fmt: skip
    run, model_of = train(config), TASKS["teacher"].model
    assert model_of is not None

    def trained(step: int | None) -> TrainedModel:
        assert model_of is not None
        return model_of(config, run, step)

    options = replace(
        OPTIONS, score="tracin", checkpoints=(2, 4), queries="samples:2", parameters=("*conv_in*",)
    )
    result = measured(trained, options, tmp_path / "out")
    total = torch.zeros(2, FEW, dtype=torch.float64)
    for step in (2, 4):
        checkpoint = trained(step)
        model = load_model(checkpoint, "cpu")
        assert model.schedule == LogNormalSchedule(-0.5, 1.6, 0.02, 20.0)
        gradients = VmapGradients(SampleLoss(model.denoiser, model.schedule, ["*conv_in*"]))
        draws = shared_draws(sampler_of(tmp_path / f"out/store/step={step}"), 4, 2, (1, 8, 8), 0)

        def halves(s: SampleBatch, g: VmapGradients = gradients, d: Draws = draws) -> list[Tensor]:
            return [g(s, d.row(i)).double() for i in range(2)]

        (a, b), (c, d) = halves(result.queries.batch), halves(model.training.batch(torch.arange(FEW)))
        assert checkpoint.learning_rate is not None
        assert checkpoint.learning_rate > 0 if step == 2 else checkpoint.learning_rate >= 0
        total += checkpoint.learning_rate * (a @ d.T + b @ c.T) / 2
    assert torch.allclose(result.ranking.scores, total, rtol=1e-4, atol=1e-9)
    with pytest.raises(UserError, match=r"holds no checkpoint of step 3; there are \[2, 4\]"):
        measured(trained, replace(options, checkpoints=(3,)), tmp_path / "out3")


@pytest.mark.slow
def test_latents_are_encoded_once_and_prompts_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = prompted_solids(8, 1)
    few = PromptedImages(pictures.images[:6], ["a red torus, side view", "a blue cube, front view"] * 3)
    monkeypatch.setattr(prompted, "load_prompted", lambda *options: few)
    teacher = TrainedModel(save_tiny_pipeline(tmp_path / "pipeline"), DataOptions("shapes", size=8))
    options = replace(OPTIONS, queries="samples:2", cache=tmp_path / "cache")
    result = measured(teacher, options, tmp_path / "out")
    assert result.ranking.scores.shape == (2, 6)
    assert result.training.shape == (4, 4, 4)
    (latents,) = (tmp_path / "cache/latents").glob("*/*.safetensors")
    before = latents.stat().st_mtime_ns
    again = measured(teacher, options, tmp_path / "out")
    assert torch.equal(again.ranking.scores, result.ranking.scores)
    assert latents.stat().st_mtime_ns == before

    few_parameters = replace(options, parameters=("attention", "mlp"), projection="countsketch", size=64)
    one, other = (
        measured(teacher, change, tmp_path / name)
        for name, change in (
            ("vmap", few_parameters),
            ("backward", replace(few_parameters, backend="backward", gradient_checkpointing=True)),
        )
    )
    torch.testing.assert_close(one.ranking.scores, other.ranking.scores, rtol=1e-4, atol=1e-5)
    normalised = replace(few_parameters, backend="backward", normalise="draw", chunk=None)
    assert measured(teacher, normalised, tmp_path / "normalised").ranking.scores.isfinite().all()
