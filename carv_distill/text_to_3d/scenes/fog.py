"""How dense a Gaussian is as a fog, through which every ray loses what the Gaussian's splat takes from it."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from carv_distill.text_to_3d.rendering import ALPHA_MAX

DEGREE, TERMS = 8, 40_000
"""Of the polynomial, and of the series that it is made from: at ALPHA_MAX the rest is below 1e-17 of it."""


def half_polylogarithm(z: Tensor) -> Tensor:
    """Li_½(z) = Σ_{n ≥ 1} zⁿ / √n for z in [0, ALPHA_MAX], to 2e-7 of its value in float64.

    It is what makes splats of a fog. The splat of a round Gaussian of the scale s takes the share
    z = o exp(−m²/2s²) of a ray that passes its middle at the distance m, the fog of the density σ loses
    1 − exp(−∫σ). The two are the same where ∫σ = −ln(1 − z) = Σ zⁿ/n, and each zⁿ/n is the integral along
    the ray of oⁿ exp(−n r²/2s²) / (√n √(2π) s), so that

        σ(r) = Li_½(o exp(−r²/2s²)) / (√(2π) s).

    Near 1 it grows as √(π/(1 − z)): s Li_½(1 − s²)/(1 − s²) is smooth in s = √(1 − z), and a polynomial.
    """
    root = (1 - z).sqrt()
    first, *rest = _coefficients()
    value = root * first
    for coefficient in rest[:-1]:
        value = (value + coefficient) * root
    return z * (value + rest[-1]) / root


@cache
def _coefficients() -> tuple[float, ...]:
    """Of s Li_½(1 − s²)/(1 − s²), the highest power first."""
    n = np.arange(1, TERMS + 1)

    def series(s: np.ndarray) -> np.ndarray:
        found: np.ndarray = s * (np.power.outer(1 - s**2, n - 1) / np.sqrt(n)).sum(-1)
        return found

    fitted = Chebyshev.interpolate(series, DEGREE, domain=[(1 - ALPHA_MAX) ** 0.5, 1])
    return tuple(fitted.convert(kind=Polynomial).coef[::-1].tolist())
