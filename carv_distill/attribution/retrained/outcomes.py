"""What scores predict of models that were trained anew, and what came of it."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carv_distill.attribution.measure import ranked_set
from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.queries import read_queries
from carv_distill.attribution.ranking.ranking import scores_digest
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError, one_line

from .models import RetrainedModel, predicted_outcomes, query_losses, read_models


@dataclass(frozen=True)
class Outcomes:
    """Of Q queries under M models."""

    score: str
    models: list[RetrainedModel]
    predicted: Tensor
    """Σ of the scores of what a model saw, [Q, M]."""
    losses: Tensor
    """[M, Q]."""


def measure_outcomes(
    trained: TrainedModel,
    o: InfluenceOptions,
    scores: Path,
    digest: str,
    models: Path,
    draws: int,
    seed: int,
    device: str,
    chunk: int | None = None,
) -> Outcomes:
    """Losses of the queries of an attribution under every model of a file, and what its scores predict.

    Args:
        trained, o: of the attribution.
        scores: its scores, an .npz.
        digest: of them, see :func:`~.ranking.scores_digest`.
        models: see :func:`~.models.read_models`.
        draws, seed: of a loss.
        chunk: see :func:`~.models.query_losses`.

    Raises:
        UserError: scores of another attribution, or models that do not fit.
    """
    base = load_model(trained, device, o)
    ranked, queries = ranked_set(base, o), read_queries(o.queries, base)
    values = _read_scores(scores, digest)
    if list(values.shape) != [len(queries), len(ranked)]:
        raise UserError(
            f"--influence: {scores} has scores {list(values.shape)} of queries and training samples; they "
            f"are {[len(queries), len(ranked)]} now"
        )
    read = read_models(models, base.training.numbers, len(queries))
    losses = query_losses(read, base, queries, draws, seed, chunk)
    return Outcomes(o.score, read, predicted_outcomes(values, ranked.numbers, read), losses)


def _read_scores(path: Path, digest: str) -> Tensor:
    if path.suffix != ".npz":
        raise UserError(f"--influence: its scores are in {path}; an .npz is needed (--scores of influence)")
    try:
        with np.load(path, allow_pickle=False) as file:
            scores = torch.from_numpy(file["scores"])
    # np.load gives a bare array, which is no context manager, for an .npy
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"--influence: its scores, {path}, cannot be read ({one_line(error)})") from error
    if scores_digest(scores) != digest:
        raise UserError(
            f"--influence: its scores, {path}, are others than it was written with; run evaluate.py "
            "influence again"
        )
    return scores
