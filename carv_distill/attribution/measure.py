"""Influence of a training set on given samples, in three verbs: load the model, make features, rank."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.features.preparation import fill_store, prepare_features, require_store
from carv_distill.attribution.features.store import FeatureStore
from carv_distill.attribution.models.attributed import AttributedModel, load_model
from carv_distill.attribution.ranking.ranking import Ranking, rank
from carv_distill.attribution.samples.sets import Samples, TrainingSet
from carv_distill.data.stored import spread
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .options import InfluenceOptions
from .queries import read_queries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InfluenceResult:
    """Scores with what they are about."""

    model: str
    training: TrainingSet
    """Those that are ranked,"""
    samples: int
    """of so many."""
    queries: Samples
    ranking: Ranking
    scores: Path
    """The file that holds them all."""
    store: Path
    """Of the training set's features."""
    student: Path | None = None
    """Of a distillation's run, whose teacher the model is."""
    seconds: float | None = None
    """That the training set's features take here; None where they were not timed."""


def measure_influence(
    trained: Callable[[int | None], TrainedModel], options: InfluenceOptions, folder: Path, device: str
) -> InfluenceResult | None:
    """Features of the training set, kept in a store and taken from there where they are; features of the
    queries; scores.

    Under torchrun each process makes its share of the features; all but the first then return None.

    Args:
        trained: the model, as it was exported or at a step of its training.
        folder: for the store and the scores, where the options name none.
    """
    o = options
    processes = Processes.launched(device)
    device, root = str(processes.device), o.store or folder / "store"
    with processes.first():  # for the embeddings that the first process keeps
        model = load_model(trained(None), device, o)
    ranked = ranked_set(model, o)
    places = {step: root if step is None else root / f"step={step}" for step in o.checkpoints or (None,)}
    for place in places.values():
        require_store(o, ranked, place)
    queries = read_queries(o.queries, model)
    ranked.encode(torch.arange(len(ranked)))
    _require_votes(o.votes, len(queries), len(ranked))
    features: list[Tensor] = []
    stores: list[FeatureStore] = []
    rates: list[float] = []
    about: list[dict[str, Any]] = []
    for number, (step, place) in enumerate(places.items()):
        if step is not None:
            checkpoint = trained(step)
            model = load_model(checkpoint, device, o)
            rates.append(_rate(checkpoint, step))
        job, store, made_with = prepare_features(o, model, ranked, place, device, number, processes)
        job = fill_store(o, job, store, ranked, processes)
        if not processes.rank:
            features.append(job.features(queries.batch))
            stores.append(store)
            about.append(made_with)
    if processes.rank:
        return None
    ranking = rank(
        features,
        stores,
        o.score,
        o.debiased,
        rates or None,
        o.damping,
        _places(queries.numbers, ranked),
        o.draws // o.groups,
        {"draws": o.draws, "groups": o.groups, "score": o.score, "debias": o.debiased, "features": about},
        o.votes,
    )
    path = o.scores or folder / f"{o.score}.npz"
    ranking.save(path, ranked.numbers)
    timed = [store.seconds for store in stores]
    seconds = None if None in timed else sum(t for t in timed if t is not None) / processes.world_size
    return InfluenceResult(
        model.name, ranked, len(model.training), queries, ranking, path, root, model.student, seconds
    )


def ranked_set(model: AttributedModel, o: InfluenceOptions) -> TrainingSet:
    """What is ranked of a model's training set: all, or some from all parts of it.

    Raises:
        UserError: it has fewer than are asked for.
    """
    whole = model.training
    if o.among is None or o.among == len(whole):
        return whole
    if o.among > len(whole):
        raise UserError(
            f"--among: {o.among:,} of the {len(whole):,} training samples of {model.name} (allowed: 1 to "
            f"{len(whole):,}; without it all are ranked)"
        )
    return whole.some(spread(len(whole), o.among))


def _require_votes(votes: int | None, queries: int, samples: int) -> None:
    """UserError where a number of votes says nothing."""
    if votes is not None and queries == 1:
        raise UserError(f"--votes: {votes} is for several queries, found one; leave it out")
    if votes is not None and votes >= samples:
        raise UserError(
            f"--votes: {votes} of {samples} training samples is a vote for all of them (allowed: 1 to "
            f"{samples - 1})"
        )


def _places(numbers: Tensor | None, ranked: TrainingSet) -> Tensor | None:
    """Of training samples among those that are ranked, or −1."""
    if numbers is None:
        return None
    places = {int(number): place for place, number in enumerate(ranked.numbers)}
    return torch.tensor([places.get(int(number), -1) for number in numbers])


def _rate(trained: TrainedModel, step: int) -> float:
    """TracIn's weight of a checkpoint."""
    assert trained.learning_rate is not None
    if trained.learning_rate == 0:
        log.warning(
            "--checkpoints: the learning rate had come to zero at step %d, which does not count", step
        )
    return trained.learning_rate
