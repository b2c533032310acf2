"""What is encoded once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import torch

from carv_distill.attribution.samples.latents import EncodedSet, digest, encoded
from carv_distill.attribution.samples.motion import Motion
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.latents import LatentCache
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.tiny_pipelines import save_wan

CLIPS = RenderedClips(5, size=16, frames=5)


def test_a_digest_is_of_bytes_types_and_shapes() -> None:
    x = torch.arange(4.0)
    digests = [digest([x]), digest([x.view(2, 2)]), digest([x.double()]), digest([x + 1]), digest([x], "b")]
    assert len({*digests}) == 5
    assert digest([x.clone()]) == digests[0]
    assert len(digests[0]) == 16


@pytest.mark.slow
def test_clips_are_encoded_once_with_their_motion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time no clip is read; x is the posterior's mean, weights have mean 1 and are of the clip."""
    teacher = load_text_teacher(save_wan(tmp_path / "wan"), (5, 16, 16))
    motion = Motion("flow", 0.1)

    def both() -> EncodedSet:
        cache = tmp_path / "cache"
        return EncodedSet(CLIPS, teacher.codec, teacher.shape, motion, cache, "k", "cpu", 0)

    first = both()
    numbers = torch.tensor([4, 0])
    first.encode(numbers)
    assert len(list(first.cache.folder.glob("*.safetensors"))) == 2  # of these alone
    x, weight = first.read(numbers)
    clips, _ = CLIPS.batch(numbers)
    torch.testing.assert_close(x, encoded(teacher.codec, clips), rtol=1e-5, atol=1e-5)
    assert weight is not None
    torch.testing.assert_close(weight, motion.weights(motion.magnitude(clips, x.shape[2:])))
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(2))
    monkeypatch.setattr(RenderedClips, "batch", lambda *_: pytest.fail("a clip was read"))
    again, _ = both().read(numbers)
    assert torch.equal(again, x)


@pytest.mark.slow
def test_an_older_cache_of_clips_in_shards_is_no_hindrance(tmp_path: Path) -> None:
    teacher = load_text_teacher(save_wan(tmp_path / "wan"), (5, 16, 16))
    made = EncodedSet(CLIPS, teacher.codec, teacher.shape, None, tmp_path / "cache", "k", "cpu", 0)
    older = tmp_path / "cache" / hashlib.blake2b(b"k mean ", digest_size=16).hexdigest()
    x = torch.zeros(len(CLIPS), *teacher.shape)
    LatentCache(older, made.cache.key, len(CLIPS), 64, ("mean",)).fill(
        CLIPS, lambda pictures: [x[: len(pictures)]]
    )
    found, _ = made.read(torch.tensor([3]))
    assert found.abs().max() > 0


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.WARNING, False)])
def test_one_process_of_several_shows_a_bar(
    level: int,
    shown: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others log warnings alone."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm")
    teacher = load_text_teacher(save_wan(tmp_path / "wan"), (5, 16, 16))
    made = EncodedSet(CLIPS, teacher.codec, teacher.shape, None, tmp_path / "cache", "k", "cpu", 0)
    with caplog.at_level(level, "carv_distill"):
        made.encode(torch.tensor([0]))
    assert ("latents" in capfd.readouterr().err) == shown
