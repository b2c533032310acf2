"""Influence of a training set on given samples: from a run or a teacher to the scores."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.distributed import barrier, init_process_group

from carv_distill.attribution import (
    FeatureJob,
    FeatureStore,
    Influence,
    SampleGradients,
    attribution_pipeline,
    build_projector,
    find_chunk,
    influence_of,
    pilot_sampler,
    shared_draws,
)
from carv_distill.attribution.latents import digest
from carv_distill.attribution.pilot import sampler_dict, sampler_from_dict
from carv_distill.carv import Draws, NoiseLevelSampler
from carv_distill.diffusion.folder import one_line
from carv_distill.errors import UserError
from carv_distill.files import write_json

from .queries import read_queries
from .subject import Samples, Subject, learning_rate_at, load_model, load_subject

log = logging.getLogger(__name__)

BLOCK = 64
"""Training samples in a file of the store."""


@dataclass(frozen=True)
class InfluenceOptions:
    """What evaluate.py influence is told; see its --help."""

    teacher: str | None = None
    data: str | None = None
    queries: str = "samples:8"
    draws: int = 16
    groups: int = 4
    strategy: str = "auto"
    proposal: str = "importance"
    noise: str = "auto"
    seed: int = 0
    parameters: tuple[str, ...] | list[str] = ("*",)
    projection: str = "countsketch"
    size: int = 4096
    score: str = "cosine"
    normalise: str = "mean"
    debias: bool = False
    damping: float = 0.1
    checkpoints: tuple[int, ...] | list[int] | None = None
    precision: str = "auto"
    chunk: int | None = None
    store: Path | None = None
    scores: Path | None = None

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.data is None):
            raise UserError("--teacher and --data go together, as --teacher FOLDER --data digits")
        if self.draws % self.groups:
            raise UserError(f"--draws: {self.draws} is no multiple of --groups, {self.groups}")
        each = self.draws // self.groups
        if self.strategy == "paired" and each % 2 and each > 1:
            raise UserError(f"--strategy: paired needs an even number of draws in a group, found {each}")
        if self.debias and self.groups < 2:
            raise UserError("--debias: products across groups need --groups from 2 on, found 1")
        if self.normalise == "draw" and self.score != "cosine":
            raise UserError(f"--normalise: draw is for --score cosine, found {self.score}")
        if (self.score == "tracin") != bool(self.checkpoints):
            raise UserError(
                "--checkpoints: steps of a teacher's training go with --score tracin, and only with it"
            )
        if self.projection == "none" and self.score == "trak":
            raise UserError(
                "--projection: trak inverts a matrix of --size numbers squared; none is no choice"
            )
        if self.scores is not None and self.scores.suffix not in (".npz", ".parquet"):
            raise UserError(f"--scores: {self.scores} must end in .npz or .parquet")


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
    rank, world_size, device = _processes(device)
    kept = o.store or folder / "store"

    def load(step: int | None) -> Subject:
        if run is None:
            assert o.teacher is not None
            assert o.data is not None
            return load_model(o.teacher, o.data, device, kept)
        return load_subject(run, device, step, kept)

    steps: list[int | None] = list(o.checkpoints) if o.checkpoints else [None]
    if rank:
        _wait(world_size)  # for the latents that rank 0 keeps
    subject = load(steps[0])
    if not rank:
        _wait(world_size)
    queries = read_queries(o.queries, subject)
    features: list[Tensor] = []
    stores: list[FeatureStore] = []
    about: dict[str, Any] = {}
    for number, step in enumerate(steps):
        if number:
            subject = load(step)
        gradients = SampleGradients(subject.denoiser, subject.schedule, o.parameters, _precision(o, device))
        place = kept if step is None else kept / f"step={step}"
        projector = build_projector(o.projection, o.size, o.seed)
        width = gradients.dimension if o.projection == "none" else o.size
        print_of = _fingerprint(o, subject, gradients, device)
        store = FeatureStore(place, len(subject.training), o.groups, width, print_of, BLOCK)
        if rank:
            _wait(world_size)  # for the pilot
        sampler = _sampler(o, place, gradients, subject)
        if not rank:
            _wait(world_size)
        draws = shared_draws(sampler, o.draws, o.groups, subject.training.x.shape[1:], o.seed)
        job = FeatureJob(gradients, projector, draws, o.chunk or BLOCK, o.normalise == "draw")
        if o.chunk is None and store.missing(rank, world_size):
            job = replace(job, chunk=_chunk(job, subject.training))
        with _progress(store, rank, world_size) as advance:
            job.fill(store, subject.training.x, subject.training.cond, rank, world_size, advance)
        _wait(world_size)
        if rank:
            continue
        features.append(job.features(queries.x, queries.cond))
        stores.append(store)
        used = {"strategy": sampler.strategy, "noise": sampler.noise}
        about |= {"sampler": used, "dimension": gradients.dimension, **print_of}
    if rank:
        return None
    weights = [learning_rate_at(run, s) for s in steps if s is not None and run] or None
    result = influence_of(
        features,
        stores,
        o.score,
        o.debias,
        weights,
        o.damping,
        queries.numbers,
        {**about, "draws": o.draws, "groups": o.groups, "score": o.score, "debias": o.debias},
    )
    path = o.scores or folder / "scores.npz"
    result.save(path)
    return InfluenceFound(subject.name, subject.training, queries, result, path)


def _fingerprint(
    o: InfluenceOptions, subject: Subject, gradients: SampleGradients, device: str
) -> dict[str, Any]:
    """Everything that the features of a training set depend on."""
    training = subject.training
    data = [training.x] if training.cond is None else [training.x, training.cond]
    projection: dict[str, Any] = {"kind": o.projection}
    if o.projection != "none":
        projection |= {"size": o.size, "seed": o.seed}
    if o.projection == "gaussian":
        projection["drawn on"] = torch.device(device).type
    sigma = subject.schedule.sigma(torch.linspace(0, 1, 101, dtype=torch.float64))
    return {
        "model": digest(subject.denoiser.parameters()),
        "data": digest(data),
        "parameters": digest([torch.tensor([ord(c) for c in " ".join(gradients.names)])]),
        "projection": projection,
        "draws": {
            "draws": o.draws,
            "strategy": o.strategy,
            "proposal": o.proposal,
            "noise": o.noise,
            "seed": o.seed,
        },
        "loss": digest([sigma, *subject.denoiser.precondition(sigma)]),
        "normalise": o.normalise,
        "precision": _precision(o, device),
    }


def _sampler(
    o: InfluenceOptions, place: Path, gradients: SampleGradients, subject: Subject
) -> NoiseLevelSampler:
    """The store's own: its pilot runs once, so that whoever goes on with the store has the same draws."""
    path = place / "sampler.json"
    if not path.is_file():
        projector = build_projector("countsketch", 4096, o.seed)
        training = subject.training
        pipeline = attribution_pipeline(gradients, projector, training.x, training.cond, chunk=32)
        found = pilot_sampler(
            pipeline,
            o.draws // o.groups,
            o.seed,
            gradients.device,
            o.strategy,
            o.proposal,
            o.noise,
            progress=log.info,
        )
        write_json(path, sampler_dict(found))
    try:
        return sampler_from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); remove the folder {place}") from error


def _chunk(job: FeatureJob, training: Samples) -> int:
    """By trying a single group of draws."""
    draws, gradients = job.draws, job.gradients
    one = replace(job, draws=Draws(draws.u[:1], draws.weight[:1], draws.eps[:1]))

    def work(count: int) -> object:
        return one.features(training.x[:count], None if training.cond is None else training.cond[:count])

    row_bytes = gradients.dimension * gradients.dtype.itemsize
    return find_chunk(work, row_bytes, min(BLOCK, len(training)), gradients.device)


def _precision(o: InfluenceOptions, device: str) -> str:
    if o.precision != "auto":
        return o.precision
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def _processes(device: str) -> tuple[int, int, str]:
    """(rank, processes, device of this one), as torchrun says."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1, device
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # gloo: nothing but waiting goes through it; a slow rank may take long
    init_process_group("gloo", timeout=timedelta(days=7))
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    return rank, world_size, device


def _wait(world_size: int) -> None:
    if world_size > 1:
        barrier()


@contextmanager
def _progress(store: FeatureStore, rank: int, world_size: int) -> Iterator[Callable[[int], None]]:
    """A bar over this process's samples, on the first process; nothing where all is there already."""
    total = sum(store.rows(b).stop - store.rows(b).start for b in store.missing(rank, world_size))
    if rank or not total:
        yield lambda count: None
        return
    columns = (TextColumn("training samples"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
