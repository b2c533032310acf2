"""Scores from features in groups of draws: debiased products and cosines, their intervals, TRAK's matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.variance.estimate import t_quantile


@dataclass(frozen=True)
class GroupProducts:
    """Products of queries' and training samples' features over all pairs of groups of draws, float64.

    With f_qg the mean gradient of query q over group g, all groups independent,

        naive      mean over all g, h of ⟨f_qg, f_xh⟩ = ⟨ḡ_q, ḡ_x⟩        E = ⟨μ_q, μ_x⟩ + tr Cov(f_q, f_x)/G
        debiased   mean over g ≠ h of ⟨f_qg, f_xh⟩                         E = ⟨μ_q, μ_x⟩

    As queries and training samples share their draws, the naive product counts the noise that the two have
    in common; how much differs between samples, so it disturbs a ranking in the same way each time. For iid
    draws in groups of one, the second is the U-statistic (K² ⟨ḡ_q, ḡ_x⟩ − Σ_k ⟨g_qk, g_xk⟩)/(K(K−1)); for
    two stratified halves it is the mean of the two products across them.
    """

    cross: Tensor
    """[Q, n, G, G], ⟨f_qg, f_xh⟩."""
    query: Tensor
    """[Q, G, G], ⟨f_qg, f_qh⟩."""
    train: Tensor
    """[n, G, G], ⟨f_xg, f_xh⟩."""

    @classmethod
    def of(cls, query: Tensor, train: Tensor) -> GroupProducts:
        """From features [Q, G, m] and [n, G, m]."""
        query, train = query.double(), train.double()
        return cls(
            torch.einsum("qgm,nhm->qngh", query, train),
            torch.einsum("qgm,qhm->qgh", query, query),
            torch.einsum("ngm,nhm->ngh", train, train),
        )

    @property
    def groups(self) -> int:
        """G."""
        return self.cross.shape[-1]

    def inner(self, debias: bool, keep: Sequence[int] | None = None) -> Tensor:
        """Inner products [Q, n], of the groups in `keep`, all by default.

        Raises:
            ValueError: a debiased product of fewer than two groups.
        """
        index = torch.tensor(range(self.groups) if keep is None else keep)
        part = self.cross[..., index[:, None], index]
        count = len(index)
        if not debias:
            return part.mean((-2, -1))
        if count < 2:
            raise ValueError(f"a debiased product needs at least two groups of draws, found {count}")
        same = part.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (part.sum((-2, -1)) - same) / (count * (count - 1))

    def cosine(self, debias: bool, keep: Sequence[int] | None = None) -> Tensor:
        """⟨ḡ_q, ḡ_x⟩/(‖ḡ_q‖ ‖ḡ_x‖), [Q, n]. Debiased, its numerator is, while the norms stay those of the
        means over the draws: cosines of gradients that the draws leave noisy are shrunk towards zero.

        Raises:
            UserError: a mean gradient is zero.
            ValueError: as for :meth:`inner`.
        """
        index = torch.tensor(range(self.groups) if keep is None else keep)
        norms = []
        for of, products in (("query", self.query), ("training sample", self.train)):
            square = products[:, index[:, None], index].mean((-2, -1))
            if not (square > 0).all():
                at = int((square > 0).int().argmin())
                raise UserError(f"{of} {at}: its gradient is zero, so it has no direction for a cosine")
            norms.append(square.sqrt())
        return self.inner(debias, keep) / (norms[0][:, None] * norms[1])

    def score(self, cosine: bool, debias: bool, keep: Sequence[int] | None = None) -> Tensor:
        """One of the two, [Q, n]."""
        return self.cosine(debias, keep) if cosine else self.inner(debias, keep)

    def half_width(self, cosine: bool, debias: bool, level: float = 0.95) -> Tensor:
        """Half the confidence interval of each score over the draws, [Q, n], by the jackknife over groups;
        NaN with too few groups for one. It knows the scatter of a score and not its bias: that of a naive
        product, or of a cosine's norms, which are more where noise is large.

        se² = (G − 1)/G Σ_g (s_(−g) − mean)², s_(−g) the score without group g; Student's t, G − 1 degrees of
        freedom.

        Source: Efron and Stein (1981), Annals of Statistics 9(3).
        """
        g = self.groups
        if g < (3 if debias else 2):
            return torch.full(self.cross.shape[:2], math.nan, dtype=torch.float64)
        left = torch.stack(
            [self.score(cosine, debias, [h for h in range(g) if h != out]) for out in range(g)]
        )
        se = (left.var(0, unbiased=False) * (g - 1)).sqrt()
        return t_quantile((1 + level) / 2, g - 1) * se

    def add(self, other: GroupProducts, rows: slice, weight: float) -> None:
        """Adds weight · other, the products with the training samples `rows`, in place; the queries' own are
        added with the first of them."""
        self.cross[:, rows] += weight * other.cross
        self.train[rows] += weight * other.train
        if rows.start == 0:
            self.query.add_(other.query, alpha=weight)

    @classmethod
    def zeros(cls, queries: int, samples: int, groups: int) -> GroupProducts:
        """For sums."""
        of = [(queries, samples), (queries,), (samples,)]
        return cls(*(torch.zeros(*n, groups, groups, dtype=torch.float64) for n in of))


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
