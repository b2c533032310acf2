"""Influence of a training set on given samples: from a run or a teacher to the scores."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed import barrier

from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .features import fill_store, prepare_features
from .influence import Influence, influence_of
from .models import Samples, Subject, learning_rate_at, load_model, load_subject
from .options import InfluenceOptions
from .queries import read_queries
from .store import FeatureStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InfluenceFound:
    """Scores with what they are about."""

    subject: str
    training: Samples
    queries: Samples
    influence: Influence
    scores: Path
    """The file that holds them all."""


def measure_influence(
    run: Path | None, options: InfluenceOptions, folder: Path, device: str
) -> InfluenceFound | None:
    """Features of the training set, kept in a store and taken from there where they are; features of the
    queries; scores.

    Under torchrun each process makes its share of the features; all but the first then return None.

    Args:
        run: of a task that trains on images; None for `options.teacher`.
        folder: for the store and the scores, where the options name none.

    Raises:
        UserError: input that does not fit, a store made by another set-up, a full disk.
    """
    o = options
    if run is not None and o.teacher is not None:
        raise UserError(f"--teacher: {o.teacher} is given beside the run {run}; one of the two is meant")
    processes = Processes.launched(device)
    rank, world_size, device = processes.rank, processes.world_size, str(processes.device)
    kept = o.store or folder / "store"

    def load(step: int | None) -> Subject:
        if run is None:
            assert o.teacher is not None
            assert o.data is not None
            return load_model(o.teacher, o.data, device, kept)
        return load_subject(run, device, step, kept)

    def wait() -> None:
        if world_size > 1:
            barrier()

    if rank:
        wait()  # for the latents that rank 0 keeps
    subject = load(None)
    if not rank:
        wait()
    queries = read_queries(o.queries, subject)
    features: list[Tensor] = []
    stores: list[FeatureStore] = []
    about: list[dict[str, Any]] = []
    steps: list[int | None] = list(o.checkpoints) if o.checkpoints else [None]
    for number, step in enumerate(steps):
        if step is not None:
            subject = load(step)
        place = kept if step is None else kept / f"step={step}"
        job, store, made = prepare_features(o, subject, place, device, number, wait, rank)
        job = fill_store(o, job, store, subject.training, rank, world_size)
        wait()
        if not rank:
            features.append(job.features(queries.x, queries.cond))
            stores.append(store)
            about.append(made)
    if rank:
        return None
    asked = {"draws": o.draws, "groups": o.groups, "score": o.score, "debias": o.debiased, "features": about}
    result = influence_of(
        features,
        stores,
        o.score,
        o.debiased,
        _rates(run, o),
        o.damping,
        queries.numbers,
        o.draws // o.groups,
        asked,
    )
    path = o.scores or folder / f"{o.score}.npz"
    result.save(path)
    return InfluenceFound(subject.name, subject.training, queries, result, path)


def _rates(run: Path | None, o: InfluenceOptions) -> list[float] | None:
    """TracIn's weights of the checkpoints."""
    if not o.checkpoints or run is None:
        return None
    rates = [learning_rate_at(run, step) for step in o.checkpoints]
    for step, rate in zip(o.checkpoints, rates, strict=True):
        if rate == 0:
            log.warning(
                "--checkpoints: the learning rate had come to zero at step %d, which does not count", step
            )
    return rates
