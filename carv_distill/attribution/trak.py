"""TRAK's metric: the inverse of the projected Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.errors import UserError


class GramMatrix:
    """H = 1/N Σ_i f̄_i f̄_iᵀ over the training set's features, f̄_i their means over the groups of draws.

    With it a TRAK score is an inner product of the query's whitened feature:

        s(q, x) = f̄_qᵀ (H + λ tr(H)/m · I)⁻¹ f̄_x

    H is made of the draws that it weighs. So products across groups would not be unbiased but spoilt: along
    what is noise in one group it whitens them against the others. Scores are of the means over all draws, and
    intervals take H as it is.

    Sums are float64, [m, m]; the features pass by once, in blocks.

    Args:
        size: m.
        damping: λ ≥ 0, relative to the mean eigenvalue.

    Source: Park et al. 2023 (TRAK), equation 15; the square loss has no weights Q. Damping: arXiv 2311.00500.
    """

    def __init__(self, size: int, damping: float = 1.0) -> None:
        if damping < 0:
            raise ValueError(f"damping must be at least 0, found {damping}")
        self.damping = damping
        self.count = 0
        self._sum = torch.zeros(size, size, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds training samples, [n, G, m]."""
        mean = features.double().mean(1)
        self._sum.addmm_(mean.T, mean)
        self.count += len(mean)

    def whiten(self, features: Tensor) -> Tensor:
        """(H + λ tr(H)/m)⁻¹ applied to features [Q, G, m].

        Raises:
            UserError: the matrix is singular.
        """
        gram = self._sum / max(self.count, 1)
        ridge = self.damping * gram.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), dtype=torch.float64))
        if failed:
            raise UserError(
                f"--damping: {self.damping:g} leaves the Gram matrix of {self.count} samples in {len(gram)} "
                "dimensions singular; give a larger one, or a smaller --size"
            )
        flat = features.double().flatten(0, 1)
        return torch.cholesky_solve(flat.T, factor).T.reshape(features.shape)
