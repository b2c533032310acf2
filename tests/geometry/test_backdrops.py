"""Random backgrounds."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.geometry.backdrops import CHOICES, CONTRAST, NOISES, backdrops, drifted


@pytest.mark.parametrize("size", [5, 8])
def test_they_have_the_variance_and_the_spectrum_that_they_say(size: int) -> None:
    n = 4000
    noise = torch.randn(n, NOISES, size, size, generator=stream(0), dtype=torch.float64)
    choice = torch.full((n, CHOICES), 0.5, dtype=torch.float64)
    choice[:, 1] = 0  # least contrast: nothing is clamped
    shown = backdrops(noise, choice) - 0.5
    square = (shown / CONTRAST[0]).square().flatten(1).mean(1)
    assert abs(square.mean() - 1) < 4 * square.std() / n**0.5
    power = torch.fft.rfft2(shown).abs().square().mean((0, 1))
    assert power[0, 0] == pytest.approx(0, abs=1e-20)
    assert power[0, 1] / power[0, 2] == pytest.approx(2**2.8, rel=0.1)  # b = 1.4; 2 % standard error


def test_its_colours_share_what_they_are_told() -> None:
    noise = torch.randn(4000, NOISES, 8, 8, generator=stream(1), dtype=torch.float64)
    for share in (0.0, 0.5, 1.0):
        choice = torch.full((4000, CHOICES), 0.5, dtype=torch.float64)
        choice[:, 1], choice[:, 2] = 0, share
        red, green, _ = (backdrops(noise, choice) - 0.5).unbind(1)
        assert (red * green).mean() / red.square().mean() == pytest.approx(share, abs=0.03)


def test_a_drift_by_whole_pixels_is_a_roll() -> None:
    """Of a pattern that goes on beyond its borders: right by 4, down by 8 of 16 pixels, in four steps."""
    picture = torch.rand(3, 16, 16, generator=stream("drift"), dtype=torch.float64)
    frames = drifted(picture, (0.25, 0.5), torch.linspace(0, 1, 5, dtype=torch.float64))
    for step, frame in enumerate(frames):
        torch.testing.assert_close(frame, picture.roll((2 * step, step), (1, 2)))


@pytest.mark.parametrize("way", [(0.31, 0.0), (-0.2, 0.27)])
def test_a_drift_between_pixels_is_that_of_each_wave(way: tuple[float, float]) -> None:
    x = torch.arange(16, dtype=torch.float64) / 16
    time = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)

    def wave(shift: torch.Tensor) -> torch.Tensor:
        right, down = shift * way[0], shift * way[1]
        turns = 3 * (x[None] - right) + 2 * (x[:, None] - down)
        return 0.5 + 0.4 * (2 * torch.pi * turns).cos()

    frames = drifted(wave(time[0]).expand(3, -1, -1), way, time)
    for t, frame in zip(time, frames, strict=True):
        torch.testing.assert_close(frame[0], wave(t))


def test_what_does_not_drift_is_the_picture() -> None:
    picture = torch.rand(3, 8, 8, generator=stream("still"))
    assert torch.equal(drifted(picture, (0.0, 0.0), torch.zeros(5)), picture.expand(5, -1, -1, -1))
