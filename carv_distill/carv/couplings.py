"""Couplings of the noises ε of one upstream sample's draws; each ε is standard normal under all of them.

A new coupling is one class and one entry of :data:`NOISES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names of couplings are read where torch is not wanted, in options
    from torch import Tensor


class Coupling:
    """Independent noises, and the face of the others."""

    name = "iid"
    group: int | None = 1
    """How many consecutive draws depend on each other; None is all K."""

    @property
    def even_draws(self) -> bool:
        """Whether an odd K leaves a draw without its partner."""
        return self.group == 2

    def couple(self, normal: Callable[[int], Tensor], draws: int) -> Tensor:
        """ε of K draws, [R, K, …].

        Args:
            normal: n → independent standard normal numbers, [R, n, …].
        """
        return normal(draws)

    def hermite_factor(self, degree: int, draws: int) -> float:
        """Var of the K-average with these noises over Var with iid ones, for a Hermite component of degree
        m ≥ 1 in ε, all draws at one noise level; of several coordinates, m is the total degree.

        Source: Corr(He_m(ε), He_m(ε')) = ρ^m for jointly normal ε, ε' of correlation ρ (Mehler).
        """
        return 1.0


class Antithetic(Coupling):
    """Pairs (ε, −ε) at draws (2j, 2j+1), which stratified levels make neighbours in u.

    Variance factor 1 + (−1)^m: odd parts vanish, even parts double. An odd K leaves its last draw unpaired,
    and 1 + (−1)^m (K−1)/K.
    """

    name, group = "antithetic", 2

    def couple(self, normal: Callable[[int], Tensor], draws: int) -> Tensor:
        z = normal((draws + 1) // 2)
        eps = z.new_empty(len(z), 2 * z.shape[1], *z.shape[2:])
        eps[:, ::2] = z
        eps[:, 1::2] = -z
        return eps[:, :draws]

    def hermite_factor(self, degree: int, draws: int) -> float:
        return 1 + (-1) ** degree * (draws - draws % 2) / draws


class ZeroSum(Coupling):
    """ε_k = √(K/(K−1)) (z_k − z̄), so that Σ_k ε_k = 0; K = 1 is iid.

    Variance factor 1 + (K−1)(−1/(K−1))^m.
    """

    name, group = "zero_sum", None

    def couple(self, normal: Callable[[int], Tensor], draws: int) -> Tensor:
        z = normal(draws)
        return z if draws == 1 else z.sub_(z.mean(1, keepdim=True)).mul_((draws / (draws - 1)) ** 0.5)

    def hermite_factor(self, degree: int, draws: int) -> float:
        return 1.0 if draws == 1 else float(1 + (draws - 1) * (-1 / (draws - 1)) ** degree)


NOISES: dict[str, Coupling] = {c.name: c for c in (Coupling(), Antithetic(), ZeroSum())}
