"""From features to a ranking of the training set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carv_distill.attribution.features.store import FeatureStore
from carv_distill.attribution.options import SCORES
from carv_distill.attribution.samples.latents import digest
from carv_distill.errors import UserError
from carv_distill.files import atomic_file

from .reliability import Reliability, Score, half_width, reliability
from .scores import GroupProducts, TrakScores
from .votes import Votes, count_votes

TENTH = 10
"""One training sample of so many is voted for by a query: the share that MOTIVE fine-tunes on."""


@dataclass(frozen=True)
class Ranking:
    """Ranking of N training samples on Q queries. A training sample is meant by its place among them, its
    column; in files its number in the whole data set stands beside it."""

    scores: Tensor
    """[Q, N], float64; −∞ for a query that is this training sample itself."""
    half_width: Tensor
    """Half the 95 % interval over the draws, [Q, N]; NaN where there are too few groups for one."""
    reliability: list[Reliability]
    left_out: Tensor
    """[Q], of a query that is one of these training samples its place, else −1."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: kept in the files."""
    votes: Votes | None = None
    """Of several queries."""

    def top(self, count: int) -> Tensor:
        """Places of the most influential training samples of each query, [Q, count], highest first."""
        return self.scores.argsort(dim=1, descending=True, stable=True)[:, :count]

    def save(self, path: Path, numbers: Tensor) -> None:
        """Writes `.npz` (scores, low, high [Q, N], order [Q, N], numbers [N], query_numbers [Q], about as
        JSON; of several queries votes, voted_order [N]) or `.parquet` (a row for each pair: query, train,
        rank, score, low, high; of several queries votes, the training sample's), by the file's ending;
        atomically. The score of a query with itself is NaN, in parquet empty.

        `order` and `voted_order` have columns of the scores, whose `numbers` are those of the whole data set;
        so are `query_numbers`, of queries that are ranked themselves, else −1, and `train`.

        Args:
            numbers: of the training samples in the whole data set, int64 [N].

        Raises:
            UserError: another ending.
            ModuleNotFoundError: parquet without pyarrow.
        """
        scores = self.scores.masked_fill(self.scores.isinf(), torch.nan)
        low, high = scores - self.half_width, scores + self.half_width
        order = self.top(scores.shape[1])
        votes = self.votes
        if path.suffix == ".npz":
            with atomic_file(path) as file:
                np.savez_compressed(
                    file,
                    scores=scores.numpy(),
                    numbers=numbers.numpy(),
                    query_numbers=numbers[self.left_out].where(self.left_out >= 0, -1).numpy(),
                    low=low.numpy(),
                    high=high.numpy(),
                    order=order.to(torch.int32).numpy(),
                    about=json.dumps(dict(self.about), ensure_ascii=False),
                    **({} if votes is None else _voted_arrays(votes)),
                )
        elif path.suffix == ".parquet":
            _save_parquet(path, numbers, scores, low, high, order, self.about, votes)
        else:
            raise UserError(f"{path}: scores are saved as .npz or .parquet")


def rank(
    queries: Sequence[Tensor],
    stores: Sequence[FeatureStore],
    score: str = "cosine",
    debias: bool = False,
    weights: Sequence[float] | None = None,
    damping: float = 1.0,
    left_out: Tensor | None = None,
    draws: int = 1,
    about: Mapping[str, Any] | None = None,
    votes: int | None = None,
) -> Ranking:
    """Scores of every training sample in the stores for every query.

        inner     ⟨ḡ_q, ḡ_x⟩
        cosine    the same over both norms
        tracin    Σ_c η_c ⟨ḡ_q, ḡ_x⟩ over checkpoints c
        trak      ḡ_qᵀ (H + λ)⁻¹ ḡ_x, see :class:`TrakScores`

    Args:
        queries: features of the queries [Q, G, m] by each checkpoint; one of them but for tracin.
        stores: of the training set, as many.
        score: see above.
        debias: without the bias of shared draws, see :class:`GroupProducts`; not for trak.
        weights: η_c; 1 each by default.
        damping: λ of trak.
        left_out: [Q], for a query that is itself one of these training samples its place, or −1; it is no
            candidate of its own (score −∞, and not in the reliability).
        draws: of a group, for the reliability.
        about: kept with the result.
        votes: training samples that each of several queries votes for; a tenth by default.

    Raises:
        UserError: features that do not fit, or that are not finite.
        ValueError: another score, no store, or debiased scores of trak.

    Source: TracIn: Pruthi et al. 2020, equation 3. TRAK: Park et al. 2023.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}; found {score!r}")
    if not stores:
        raise ValueError("influence needs a store")
    if debias and score == "trak":
        raise ValueError("trak has no debiased scores: its matrix is made of the draws that it weighs")
    count, groups = len(queries[0]), stores[0].groups
    for query, store in zip(queries, stores, strict=True):
        shape = [store.groups, store.size]
        if list(query.shape[1:]) != shape:
            raise UserError(
                f"{store.folder}: its samples have features {shape} (groups, size), the queries "
                f"{list(query.shape[1:])}"
            )
    scored: Score
    if score == "trak":
        (query,), (store,) = queries, stores
        scored = TrakScores(query, lambda: (block for _, block in store.blocks()), damping)
    else:
        products = GroupProducts.zeros(count, stores[0].samples, groups)
        for number, (query, store) in enumerate(zip(queries, stores, strict=True)):
            weight = 1.0 if weights is None else weights[number]
            for part, block in store.blocks():
                products.add(GroupProducts.of(query, block, part.start), part, weight)
        scored = partial(products.score, score == "cosine", debias)
    if left_out is None:
        left_out = torch.full((count,), -1)
    own = torch.zeros(count, stores[0].samples, dtype=torch.bool)
    rows = (left_out >= 0).nonzero()[:, 0]
    own[rows, left_out[rows]] = True

    def candidates(keep: Sequence[int]) -> Tensor:
        # in no ranking, and in no agreement of two
        return scored(keep).masked_fill(own, -torch.inf)

    least = 2 if debias else 1
    each = None if count == 1 else votes or -(-stores[0].samples // TENTH)
    scores = candidates(range(groups))
    return Ranking(
        scores,
        half_width(scored, groups, least),
        reliability(candidates, groups, draws, least, score == "trak", each),
        left_out,
        about or {},
        None if each is None else count_votes(scores, each),
    )


def scores_digest(scores: Tensor) -> str:
    """Of scores [Q, N] as they are saved, or of those themselves: by it a result knows its file."""
    return digest([scores.masked_fill(scores.isinf(), torch.nan)])


def _voted_arrays(votes: Votes) -> dict[str, Any]:
    return {"votes": votes.counts.to(torch.int32).numpy(), "voted_order": votes.order.to(torch.int32).numpy()}


def _save_parquet(
    path: Path,
    numbers: Tensor,
    scores: Tensor,
    low: Tensor,
    high: Tensor,
    order: Tensor,
    about: Mapping[str, Any],
    votes: Votes | None,
) -> None:
    import pyarrow
    from pyarrow import parquet

    count, samples = scores.shape
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(samples).expand(count, -1))
    table = pyarrow.table(
        {
            "query": np.repeat(np.arange(count, dtype=np.int32), samples),
            "train": np.tile(numbers.to(torch.int32).numpy(), count),
            "rank": rank.flatten().to(torch.int32).numpy(),
            **{
                name: pyarrow.array(values.flatten().numpy(), from_pandas=True)  # NaN is empty
                for name, values in (("score", scores), ("low", low), ("high", high))
            },
            **({} if votes is None else {"votes": votes.counts.to(torch.int32).repeat(count).numpy()}),
        }
    )
    table = table.replace_schema_metadata({"about": json.dumps(dict(about), ensure_ascii=False)})
    with atomic_file(path) as file:
        parquet.write_table(table, file)
