"""The density of a Gaussian as a fog."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from carv_distill.text_to_3d.rendering import ALPHA_MAX
from carv_distill.text_to_3d.scenes.fog import half_polylogarithm


@pytest.mark.parametrize("z", [1e-6, 0.1, 0.5, 0.9, 0.99, ALPHA_MAX])
def test_against_its_integral(z: float) -> None:
    """Li_½(z) = 2/√π ∫ du / (exp(u²)/z − 1) over u > 0."""
    integral, error = quad(
        lambda u: 1 / (math.exp(u * u) / z - 1), 0, 6, points=[0.03, 0.3], epsabs=0, epsrel=1e-9
    )
    expected = 2 / math.sqrt(math.pi) * integral
    assert error < 1e-7 * integral
    assert float(half_polylogarithm(torch.tensor(z, dtype=torch.float64))) == pytest.approx(
        expected, rel=3e-7
    )


def test_nothing_has_no_density_and_none_is_lost_in_float32() -> None:
    z = torch.cat([torch.zeros(1), torch.logspace(-30, 0, 500) * ALPHA_MAX])
    single, double = half_polylogarithm(z), half_polylogarithm(z.double())
    assert single[0] == 0
    assert (single[1:] > 0).all()
    # 1 − z is known to 2⁻²⁴, and the value goes as its root.
    assert torch.allclose(single.double(), double, rtol=5e-5)


@pytest.mark.parametrize("opacity", [0.05, 0.5, 0.95, ALPHA_MAX])
def test_a_ray_at_any_distance_loses_what_the_splat_takes(opacity: float) -> None:
    """1 − exp(−∫ Li_½(o exp(−½ (m² + t²))) / √(2π) dt) = o exp(−m²/2), by the trapezoidal rule."""
    t = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    for m in (0.0, 0.3, 1.0, 2.5):
        z = opacity * torch.exp(-0.5 * (m * m + t.square()))
        depth = torch.trapezoid(half_polylogarithm(z), t) / math.sqrt(2 * math.pi)
        assert float(1 - torch.exp(-depth)) == pytest.approx(opacity * math.exp(-m * m / 2), rel=1e-6)
