"""Gradients of a text-to-video teacher over fine strata."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import Layout, Projector, SumWithNorm, build_projector
from carv_distill.teachers.schedule import FlowSchedule
from studies.attribution_budget import video
from studies.attribution_budget.strata import PARTS, Moments
from studies.cached import compute
from studies.sentences import show_column
from tests.helpers.tiny_pipelines import save_wan

SIZE = (5, 16, 16)


@pytest.fixture
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = video.ClipOptions
    monkeypatch.setattr(video, "ClipOptions", lambda size: plain(size=size, count=4))
    video.model_of.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_moments_of_a_clip_and_what_is_said(tmp_path: Path) -> None:
    """Norms are the gradient's own, so normalised draws have second moment 1; rows have every arm and K."""
    teacher = str(save_wan(tmp_path / "wan"))
    sizes = SimpleNamespace(clips={"motion": 4, "plain": 2}, strata=4)

    def here(calls: Any) -> Any:
        return {name: [call() for call in row] for name, row in calls.items()}

    measured = video.measure(here, sizes, teacher, SIZE, 0)
    assert set(measured) == set(product(video.WEIGHTS, video.NORMS, video.PARAMETERS))
    for weights, parameters in product(video.WEIGHTS, video.PARAMETERS):
        for single, pair in measured[video.Setting(weights, "normalised", parameters)]:
            torch.testing.assert_close(single.square, torch.ones(4).double(), rtol=0.2, atol=0)
            assert (pair.square <= single.square * 1.01).all()
    laws = video.laws_of(video.model_of(teacher, SIZE, "plain").schedule, 4)
    finer = video.laws_of(video.model_of(teacher, SIZE, "plain").schedule, 4 * PARTS)
    rows = video.rows_of(measured, laws, finer, 128)
    assert {(r["arm"], r["K"]) for r in rows} >= {("Strat", 4), ("IW pairs", 64)}
    assert {r["law"] for r in rows} == set(laws)
    assert len(video.profile_rows(measured, 128)) == 8 * 4
    said = video.verdict(rows, measured, laws)
    assert said[0].startswith("V_level/V_noise, t uniform: plain, raw, all ")
    assert said[1].startswith("Gate, motion, normalised, all: ")
    assert [f"at K = {k}" in said[i] for i, k in ((2, 4), (3, 4), (4, 64), (5, 64))] == [True] * 4
    assert [f"K = {k}, the arm that was chosen" in said[i] for i, k in ((6, 4), (7, 64))] == [True] * 2
    deciding = next(
        r for r in rows
        if (r["law"], r["arm"], r["K"]) == (video.DECIDING, "Strat", 4)
        and video.Setting(r["weights"], r["norms"], r["parameters"]) == video.MOTIVE
    )  # fmt: skip
    assert f"Strat {show_column(deciding, 'ecm')}" in said[2]
    met = "met" if deciding["ecm"] >= 2.44 and deciding["ecm_low"] >= 2 else "not met"
    assert said[3].startswith(f"Strata at K = 4: {show_column(deciding, 'ecm')}, {met} (")
    again = video.measure(partial(compute, folder=tmp_path / "kept", workers=1), sizes, teacher, SIZE, 0)
    first, second = (m[video.Setting("plain", "raw", "all")][0][0] for m in (measured, again))
    assert isinstance(first, Moments)
    torch.testing.assert_close(first.inner, second.inner)


@pytest.mark.usefixtures("_small")
def test_a_pair_is_the_mean_of_opposite_noises(tmp_path: Path) -> None:
    teacher = str(save_wan(tmp_path / "wan"))
    model = video.model_of(teacher, SIZE, "plain")
    clip = model.training.batch(torch.tensor([1]))
    u, eps = torch.tensor([0.3, 0.3]), torch.randn(1, *model.training.shape).repeat(2, 1, 1, 1, 1)
    eps[1] *= -1
    rows = video.gradients_of(model, clip, u, eps)
    assert rows.shape == (2, 2 * (video.PROJECTED + 1))
    same = video.gradients_of(model, clip, u[:1], eps[:1])
    torch.testing.assert_close(rows[:1], same)
    assert not torch.allclose(rows[0], rows[1])


@pytest.mark.usefixtures("_small")
def test_attention_and_the_others_make_the_whole(tmp_path: Path) -> None:
    """Sketches add up to that of all parameters, norms by their squares; attention's is its preset's."""
    model = video.model_of(str(save_wan(tmp_path / "wan")), SIZE, "plain")
    clip = model.training.batch(torch.tensor([0]))
    u, eps = torch.tensor([0.6]), torch.randn(1, *model.training.shape)
    parts = video.gradients_of(model, clip, u, eps)
    for patterns, parameters in ((("*",), "all"), (("attention",), "attention")):
        gradients = BackwardGradients(SampleLoss(model.denoiser, model.schedule, patterns))
        projector = build_projector("countsketch", video.PROJECTED, 0)
        layout = gradients.loss.layout

        def begin(rows: int, projector: Projector = projector, layout: Layout = layout) -> SumWithNorm:
            return SumWithNorm(projector.begin(layout, rows))

        own = gradients.of_draws(clip, u, eps, begin)
        raw, normalised = (video._features(parts, norms, parameters) for norms in video.NORMS)
        torch.testing.assert_close(raw, own[:, :-1])
        torch.testing.assert_close(normalised, own[:, :-1] / own[:, -1:])


def test_laws_of_the_level() -> None:
    """Of a shifted flow: what its own uniform law makes of t is undone by t's density; the logit-normal's
    middle half lies where a normal number's does."""
    schedule, strata = FlowSchedule(1000, 3.0), 64
    laws = video.laws_of(schedule, strata)
    assert laws[video.TRAINED] is None
    u = (torch.arange(strata, dtype=torch.float64) + 0.5) / strata
    sigma = schedule.sigma(u)
    t = sigma / (1 + sigma)
    uniform, logit_normal = laws["t uniform"], laws["logit-normal"]
    assert uniform is not None
    assert logit_normal is not None
    for power in (1, 2):  # moments of a uniform number
        assert float((uniform * t**power).mean()) == pytest.approx(1 / (power + 1), abs=2e-3)
    for law in (uniform, logit_normal):
        assert float(law.mean()) == pytest.approx(1)
    assert float((logit_normal * (u < 0.5)).mean()) == pytest.approx(0.5)
    assert float((logit_normal * (torch.logit(u).abs() < 1)).mean()) == pytest.approx(0.683, abs=0.02)
