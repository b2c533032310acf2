"""Queries and their clips in motion."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking
from carv_distill.attribution.report import film as films
from carv_distill.attribution.report.film import APART, GAP, row, save_film
from tests.helpers.attributed import samples, training_set


def test_a_row_is_the_query_then_its_clips_enlarged_by_whole_numbers() -> None:
    """Of 48 pixels, three times as large; frames stay in order."""
    query = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 3, 48, 64)
    frames = row(query, [-query, torch.ones(5, 3, 48, 64)])
    assert frames.shape == (5, 3, 144, 3 * 192 + APART + GAP)
    assert frames.dtype == torch.uint8
    assert frames[:, 0, 0, 0].tolist() == [0, 64, 128, 191, 255]
    assert frames[:, 0, 0, 192 + APART].tolist() == [255, 191, 128, 64, 0]
    assert (frames[:, :, :, 192 : 192 + APART] == 255).all()
    assert (frames[..., -192:] == 255).all()


def test_the_film_has_every_query_with_its_first_clips(tmp_path: Path) -> None:
    """Two queries; training clips are grey of their own level; scores make 3 and then 1 the first."""
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    clips = levels.view(5, 1, 1, 1, 1).expand(5, 9, 3, 128, 128).clone()
    queries, training = samples(clips[:2], ["a", "b"]), training_set(clips, ["x"] * 5)
    scores = torch.tensor([[0.0, 0.5, 0.1, 0.9, 0.2]] * 2, dtype=torch.float64)
    ranking = Ranking(scores, torch.full_like(scores, math.nan), [], torch.full((2,), -1))
    save_film(InfluenceResult("m", training, 999, queries, ranking, Path(), Path()), 2, tmp_path / "c.mp4")
    with av.open(str(tmp_path / "c.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 3 * 9
    assert frames[0].shape == (2 * 128 + GAP, 3 * 128 + APART + GAP, 3)
    places = [64, 128 + APART + 64, 2 * 128 + APART + GAP + 64]
    for line, own in ((64, 0.0), (128 + GAP + 64, 63.75)):
        shown = [float(np.mean(frames[4][line, place])) for place in places]
        assert np.allclose(shown, [own, 191.25, 63.75], atol=4), shown  # video is coded with a loss


def test_large_clips_are_shrunk_whole() -> None:
    """480 × 832 becomes 192 × 333, so that a film of real clips fits into memory."""
    assert row(torch.zeros(5, 3, 480, 832), []).shape == (5, 3, 192, 333)


def test_a_film_holds_what_can_be_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """H.264 has a largest size, browsers a lower one; of more queries with more clips the first are shown."""
    monkeypatch.setattr(films, "LARGEST", 600)
    clips = torch.zeros(6, 1, 3, 128, 128)
    scores = torch.zeros(6, 6, dtype=torch.float64)
    ranking = Ranking(scores, scores, [], torch.full((6,), -1))
    result = InfluenceResult("m", training_set(clips), 6, samples(clips), ranking, Path(), Path())
    with caplog.at_level("INFO"):
        save_film(result, 6, tmp_path / "c.mp4")
    assert "the first 4 of the 6 queries and the first 3 of the 6 training samples of each" in caplog.text
    with av.open(str(tmp_path / "c.mp4")) as container:
        (stream,) = container.streams.video
        width, height = 128 + APART + 3 * (128 + GAP) - GAP, 4 * (128 + GAP) - GAP
        assert (stream.width, stream.height) == (width, height)


@pytest.mark.slow
def test_pictures_of_images_need_no_video_library() -> None:
    """PyAV comes with an extra; a ranking of images is drawn without it."""
    code = "import sys, carv_distill.attribution.report.figures; print('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
