"""A run in TensorBoard, read back by its own reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from carv_distill.data.clips.mp4 import film
from carv_distill.engine.loggers.tensorboard import as_gif
from carv_distill.engine.metrics import read_metrics

from .conftest import Followed


@pytest.fixture(scope="module")
def events(followed: Followed) -> Any:
    accumulator = EventAccumulator(str(followed.run / "tensorboard"), size_guidance={SCALARS: 0, IMAGES: 0})
    accumulator.Reload()
    return accumulator


def test_scalars_are_those_of_metrics_csv(followed: Followed, events: Any) -> None:
    rows = read_metrics(followed.run / "metrics.csv")
    for name in ("scene/opacity", "clip/score"):
        found = {event.step: event.value for event in events.Scalars(name)}
        expected = {int(row["step"]): row[name] for row in rows if name in row}
        assert found == pytest.approx(expected, rel=1e-6)
        assert len(events.Scalars(name)) == len(expected)


def test_pictures_are_the_files_and_the_film_is_a_gif(followed: Followed, events: Any) -> None:
    assert set(events.Tags()[IMAGES]) == {"samples", "object/views", "object/turntable"}
    (preview,) = events.Images("samples")
    assert preview.step == 4
    with Image.open(followed.run / "samples/000004.png") as file:
        assert np.array_equal(pixels(preview), np.asarray(file.convert("RGB")))
    turns = events.Images("object/turntable")[-1]
    with Image.open(io.BytesIO(turns.encoded_image_string)) as gif:
        assert gif.format == "GIF"
    assert "config" in "".join(events.Tags()["tensors"])


def pixels(event: Any) -> np.ndarray:
    with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_film_as_a_gif_has_its_frames_and_its_pace(tmp_path: Path) -> None:
    import torch

    with film(tmp_path / "a.mp4", 16, 32, 10) as write:
        for grey in (0, 120, 240):
            write(torch.full((3, 16, 32), grey, dtype=torch.uint8))
    content, size = as_gif(tmp_path / "a.mp4")
    assert size == (32, 16)
    with Image.open(io.BytesIO(content)) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (3, 100)
        for frame, grey in enumerate((0, 120, 240)):
            gif.seek(frame)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - grey).max() <= 8
