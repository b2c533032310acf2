"""Scores from features in groups of draws: debiased products and cosines, and TRAK's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.errors import UserError


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
    def of(cls, query: Tensor, train: Tensor, first: int = 0) -> GroupProducts:
        """From features [Q, G, m] and [n, G, m]; `first` is the number of the first training sample.

        Raises:
            UserError: a feature is not finite.
        """
        require_finite(query, "query")
        require_finite(train, "training sample", first)
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


class TrakScores:
    """TRAK's scores by some of the groups of draws, as if there were no others:

        s_S(q, x) = f̄_qᵀ (H + λ tr(H)/m · I)⁻¹ f̄_x,    H = 1/N Σ_i f̄_i f̄_iᵀ

    f̄ the mean feature over the groups in S, of the query, of the training sample and in H alike. So sets of
    groups that have none in common give independent scores, and a jackknife over groups knows what H adds to
    the scatter of a score. For the same reason there are no products across groups: along what is noise in
    one group its H whitens it against the others.

    Each call passes the training features twice and takes O(N m² + m³), memory [m, m].

    Args:
        query: [Q, G, m].
        train: at each call the blocks of the training set's features in order, [n, G, m].
        damping: λ ≥ 0, relative to the mean eigenvalue.

    Raises:
        UserError: a query's feature is not finite.

    Source: Park et al. 2023 (TRAK), equation 15; the square loss has no weights Q. Damping: arXiv 2311.00500.
    """

    def __init__(self, query: Tensor, train: Callable[[], Iterable[Tensor]], damping: float = 1.0) -> None:
        if damping < 0:
            raise ValueError(f"damping must be at least 0, found {damping}")
        require_finite(query, "query")
        self.query, self.train, self.damping = query, train, damping

    def __call__(self, keep: Sequence[int] | None = None) -> Tensor:
        """[Q, N], float64, by the groups in `keep`, all by default.

        Raises:
            UserError: the matrix is singular, or a training sample's feature is not finite.
        """
        index = torch.tensor(range(self.query.shape[1]) if keep is None else keep)
        query = self.query[:, index].double().mean(1)
        size = query.shape[1]
        gram, count = torch.zeros(size, size, dtype=torch.float64), 0
        for block in self.train():
            require_finite(block, "training sample", count)
            mean = block[:, index].double().mean(1)
            gram.addmm_(mean.T, mean)
            count += len(mean)
        gram /= max(count, 1)
        gram.diagonal().add_(self.damping * gram.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise UserError(
                f"--damping: {self.damping:g} leaves the Gram matrix of {count} samples in {size} "
                "dimensions singular; give a larger one, or a smaller --size"
            )
        whitened = torch.cholesky_solve(query.T, factor)
        return torch.cat([block[:, index].double().mean(1) @ whitened for block in self.train()]).T


def require_finite(features: Tensor, of: str, first: int = 0) -> None:
    """Of features [n, …]; `first` is the number of the first sample.

    Raises:
        UserError: a NaN or infinity, with the number of the sample.
    """
    finite = features.isfinite().flatten(1).all(1)
    if not finite.all():
        raise UserError(f"{of} {first + int(finite.int().argmin())}: its gradient holds NaN or infinity")
