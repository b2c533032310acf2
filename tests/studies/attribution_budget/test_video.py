"""Gradients of a text-to-video teacher over fine strata."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studies.attribution_budget import video
from studies.attribution_budget.strata import Moments
from studies.cached import compute
from tests.helpers.tiny_pipelines import save_wan

SIZE = (5, 16, 16)


@pytest.fixture
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = video.ClipOptions
    monkeypatch.setattr(video, "ClipOptions", lambda size: plain(size=size, count=4))
    video.model_of.cache_clear()


@pytest.mark.usefixtures("_small")
def test_moments_of_a_clip_and_what_is_said(tmp_path: Path) -> None:
    """Norms are the gradient's own, so normalised draws have second moment 1; rows have every arm and K."""
    teacher = str(save_wan(tmp_path / "wan"))
    sizes = SimpleNamespace(clips=2, strata=4)

    def here(calls: Any) -> Any:
        return {name: [call() for call in row] for name, row in calls.items()}

    measured = video.measure(here, sizes, teacher, SIZE, 0)
    assert set(measured) == {(w, n) for w in video.WEIGHTS for n in video.NORMS}
    for weights in video.WEIGHTS:
        for single, pair in measured[weights, "normalised"]:
            torch.testing.assert_close(single.square, torch.ones(4).double(), rtol=0.2, atol=0)
            assert (pair.square <= single.square * 1.01).all()
    rows = video.rows_of(measured, 128)
    assert {(r["arm"], r["K"]) for r in rows} >= {("Strat", 4), ("IW pairs", 64)}
    assert len(video.profile_rows(measured, 128)) == 4 * 4
    said = video.verdict(rows)
    assert said[0].startswith("V_level/V_noise: plain, raw ")
    assert "at K = 64" in said[2]
    again = video.measure(partial(compute, folder=tmp_path / "kept", workers=1), sizes, teacher, SIZE, 0)
    first, second = (m["plain", "raw"][0][0] for m in (measured, again))
    assert isinstance(first, Moments)
    torch.testing.assert_close(first.inner, second.inner)


@pytest.mark.usefixtures("_small")
def test_a_pair_is_the_mean_of_opposite_noises(tmp_path: Path) -> None:
    teacher = str(save_wan(tmp_path / "wan"))
    model = video.model_of(teacher, SIZE, "plain")
    clip = model.training.batch(torch.tensor([1]))
    u, eps = torch.tensor([0.3, 0.3]), torch.randn(1, *model.training.shape).repeat(2, 1, 1, 1, 1)
    eps[1] *= -1
    rows = video._gradients(model, clip, u, eps)
    assert rows.shape == (2, video.PROJECTED + 1)
    same = video._gradients(model, clip, u[:1], eps[:1])
    torch.testing.assert_close(rows[:1], same)
    assert not torch.allclose(rows[0], rows[1])
