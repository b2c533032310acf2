"""Random backgrounds."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.geometry.backdrops import CHOICES, CONTRAST, NOISES, backdrops


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
