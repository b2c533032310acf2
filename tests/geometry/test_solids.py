"""Solids and their pictures."""

from __future__ import annotations

import math

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.geometry.camera import Cameras
from carv_distill.geometry.solids import BACKGROUND, SOLIDS, Solid, trace

F64 = torch.float64


def from_side(azimuth: float = 0.3, distance: float = 2.0) -> Cameras:
    one = torch.ones(1, dtype=F64)
    return Cameras(azimuth * one, 0.2 * one, distance * one, math.radians(50) * one)


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_is_a_distance_bound_inside_the_unit_ball(name: str) -> None:
    """Gradients of at most 1 (so that no ray oversteps), positive outside radius 1, negative somewhere."""
    solid = SOLIDS[name]
    p = (2 * torch.rand(20_000, 3, generator=stream(name), dtype=F64) - 1).requires_grad_()
    d = solid(p)
    (slope,) = torch.autograd.grad(d.sum(), p)
    assert slope.norm(dim=-1).max() < 1 + 1e-9
    assert d[p.norm(dim=-1) > 1].min() > 0
    assert d.min() < -0.1


def test_a_ball_fills_the_disc_it_should() -> None:
    """A red ball of radius 0.55 at distance 2 seen under 50°: what it takes of the background's green."""
    image = trace(SOLIDS["ball"], (1.0, 0.0, 0.0), from_side(), 64)
    share = (1 - image[0, 1] / BACKGROUND).mean().item()
    tangent = math.tan(math.asin(0.55 / 2)) / math.tan(math.radians(25))
    assert share == pytest.approx(math.pi * tangent**2 / 4, rel=0.02)


@pytest.mark.parametrize("name", SOLIDS)
def test_a_picture_shows_its_colour_on_grey(name: str) -> None:
    image = trace(SOLIDS[name], (0.1, 0.2, 0.9), from_side(), 32)
    assert image.shape == (1, 3, 32, 32)
    assert 0 <= image.min() <= image.max() <= 1
    torch.testing.assert_close(image[0, :, 0, 0], torch.full((3,), BACKGROUND, dtype=F64))
    shown = (image[0] - BACKGROUND).abs().amax(0) > 0.05
    assert 0.05 < shown.double().mean() < 0.6
    assert image[0, 2][shown].mean() > 2 * image[0, 0][shown].mean()


def test_no_two_solids_look_alike() -> None:
    images = [trace(s, (1.0, 1.0, 1.0), from_side(), 32).flatten() for s in SOLIDS.values()]
    apart = torch.pdist(torch.stack(images))
    assert apart.min() > 2


def test_tracing_finds_the_surface_of_an_exact_distance() -> None:
    """A plane's lit value is one number wherever it is hit."""
    plane: Solid = lambda p: p[..., 1] + 0.2  # noqa: E731
    image = trace(plane, (1.0, 1.0, 1.0), from_side(), 16)
    assert image[0, :, -1].std() < 0.05
