"""Models that a user trained anew on parts of the training set, and the queries' losses under each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.features.chunks import find_chunk
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.models.attributed import AttributedModel
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.attribution.samples.sets import Samples
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.numbers import read_numbers
from carv_distill.errors import UserError, shown


@dataclass(frozen=True)
class RetrainedModel:
    """A model with what it learned from."""

    folder: Path
    without: frozenset[int]
    """Numbers of the training samples that it never saw."""
    query: int | None = None
    """Whose most influential samples these are; None: of no query in particular."""


def read_models(path: Path, known: Tensor, queries: int) -> list[RetrainedModel]:
    """From a file with a JSON object on each line:

        {"model": "runs/half-0/teacher", "with": [0, 2, 5, …]}
        {"model": "runs/top-3/teacher", "without": "top-3.txt", "query": 3}

    The numbers stand in the object, or in a file beside it, separated by blanks or line ends. `query` says
    for which query's sake they were left out.

    Args:
        known: numbers of the training samples in the whole data set, int64 [N]; those in the file are of this
            kind, too.
        queries: how many there are.

    Raises:
        UserError: with the line: not JSON, a key that is missing or unknown, a number out of range, or a
            folder or file that is not there.
    """
    if not path.is_file():
        raise UserError(f"--models: {path} is no file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"--models: {path} is not UTF-8") from error
    models, samples = [], frozenset(known.tolist())
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            models.append(_model(f"--models: {path}, line {number}", line, path.parent, samples, queries))
    if not models:
        raise UserError(f"--models: {path} names no model")
    return models


def _model(where: str, line: str, beside: Path, samples: frozenset[int], queries: int) -> RetrainedModel:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON") from error
    known = {"model", "with", "without", "query"}
    if not isinstance(content, dict) or not isinstance(content.get("model"), str) or content.keys() - known:
        raise UserError(f'{where} is no {{"model": FOLDER, "with" or "without": NUMBERS}}: {shown(content)}')
    if ("with" in content) == ("without" in content):
        raise UserError(f"{where}: give either with or without, the numbers of training samples")
    folder = _beside(content["model"], beside)
    if not folder.is_dir():
        raise UserError(f"{where}: {content['model']} is no folder")
    key = "with" if "with" in content else "without"
    numbers = _numbers(content[key], f"{where}: {key}", beside, max(samples) + 1)
    query = content.get("query")
    if query is not None and (not isinstance(query, int) or not 0 <= query < queries):
        raise UserError(f"{where}: query {shown(query)} is no number from 0 to {queries - 1}")
    return RetrainedModel(folder, samples - numbers if key == "with" else numbers, query)


def _numbers(value: Any, where: str, beside: Path, count: int) -> frozenset[int]:
    if isinstance(value, str):
        return frozenset(read_numbers(_beside(value, beside), count, where).tolist())
    if not isinstance(value, list) or not all(isinstance(n, int) and 0 <= n < count for n in value):
        raise UserError(f"{where}: {shown(value)} is no list of numbers from 0 to {count - 1}")
    return frozenset(value)


def _beside(name: str, folder: Path) -> Path:
    return folder / name if (folder / name).exists() else Path(name)


@torch.no_grad()
def query_losses(
    models: Sequence[RetrainedModel],
    base: AttributedModel,
    queries: Samples,
    draws: int,
    seed: int,
    chunk: int | None = None,
) -> Tensor:
    """Denoising losses of the queries under every model, [M, Q], float64, over the same stratified draws.

    Args:
        chunk: draws that go through a network at a time; None: found by trying the first.
    """
    sampler = NoiseLevelSampler(Proposal.uniform())
    own = stream(seed, "attribution", "losses")
    drawn = sampler.draw(1, draws, base.training.shape, own).row(0)
    rows = []
    for model in models:
        denoiser, batch = base.another(model.folder, queries)
        loss = SampleLoss(denoiser, base.schedule)
        layout = loss.layout
        there = Draws(*(t.to(layout.device, layout.dtype) for t in (drawn.u, drawn.weight, drawn.eps)))
        batch = batch.to(layout.device, layout.dtype)
        chunk = chunk or _draws_at_once(loss, batch[:1], there)
        rows.append(loss.of_samples(batch, there, chunk).double().cpu())
    return torch.stack(rows)


def _draws_at_once(loss: SampleLoss, one: SampleBatch, draws: Draws) -> int:
    def work(count: int) -> object:
        return loss.of_samples(one, draws[:count])

    return find_chunk(work, one.x.nbytes, len(draws.u), loss.layout.device, "draws")


def predicted_outcomes(scores: Tensor, numbers: Tensor, models: Sequence[RetrainedModel]) -> Tensor:
    """Σ of the scores [Q, N] of the samples that each model saw, [Q, M]; NaN, of a query with itself, is 0.

    Args:
        numbers: of the samples in the training set, [N].
    """
    seen = torch.tensor([[int(n) not in m.without for m in models] for n in numbers], dtype=torch.float64)
    return scores.double().nan_to_num(0.0, 0.0, 0.0) @ seen
