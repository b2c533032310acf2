"""Features of a training set by one model, in a store of their own."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.gradients.backends import build_gradients
from carv_distill.attribution.gradients.projection import Projector, build_projector
from carv_distill.attribution.gradients.sample_gradients import (
    SampleGradients,
    attribution_pipeline,
    sample_features,
)
from carv_distill.attribution.models.attributed import AttributedModel
from carv_distill.attribution.options import AUTO, InfluenceOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.attribution.samples.latents import digest
from carv_distill.attribution.samples.sets import TrainingSet
from carv_distill.carv import Draws, NoiseLevelSampler
from carv_distill.data.stored import spread
from carv_distill.errors import UserError, one_line
from carv_distill.files import write_json
from carv_distill.processes import Processes
from carv_distill.progress import progress
from carv_distill.variance import Pipeline

from .chunks import find_chunk
from .draws import shared_draws
from .pilot import pilot_sampler, sampler_dict, sampler_from_dict
from .store import FeatureStore, require_alike

log = logging.getLogger(__name__)

BLOCK = 64
"""Training samples in a file of the store."""
PILOT_SAMPLES = 256
"""Training samples that the pilot picks from."""
PILOT_CHUNK = 32
"""Draws of the pilot whose gradients vmap holds at a time."""


@dataclass(frozen=True)
class FeatureJob:
    """How a sample becomes features [G, m], the same for training samples and queries."""

    gradients: SampleGradients
    projector: Projector
    draws: Draws
    chunk: int
    """Samples at a time, or draws of one."""
    normalise_draws: bool = False
    model_id: int = 0

    def features(self, batch: SampleBatch, first: int = 0) -> Tensor:
        """[n, G, m], on the CPU; `first` is the number of the first sample, for what is said of one."""
        device, dtype = self.gradients.loss.layout.device, self.gradients.loss.layout.dtype
        draws = Draws(*(t.to(device, dtype) for t in (self.draws.u, self.draws.weight, self.draws.eps)))
        return sample_features(
            self.gradients,
            self.projector,
            batch.to(device, dtype),
            draws,
            self.chunk,
            self.normalise_draws,
            self.model_id,
            first,
        ).cpu()

    @property
    def samples_at_once(self) -> int:
        """As many as there is nothing to be gained from more."""
        return self.chunk if self.gradients.chunk_of == "samples" else 1


def prepare_features(
    o: InfluenceOptions,
    model: AttributedModel,
    training: TrainingSet,
    place: Path,
    device: str,
    model_id: int,
    processes: Processes,
) -> tuple[FeatureJob, FeatureStore, dict[str, Any]]:
    """What makes a sample's features, the store of the training set's, and what both depend on.

    The sampler lies in the store's folder: its pilot runs once, on the first process, so that whoever goes on
    with the store has the same draws.

    Args:
        training: what is ranked, of the model's training set.
        place: the store's folder.
        model_id: names the projection of this checkpoint.
    """
    gradients = build_gradients(o, model.denoiser, model.schedule, training.shape, device)
    weights = digest(model.denoiser.state_dict().values(), model.architecture)  # as they compute
    with processes.first():
        sampler = _sampler(o, place, gradients, training)
    projector = build_projector(o.projection, o.size, o.seed)
    made = (weights, training.digest)
    about = _fingerprint(o, model, made, gradients, sampler, projector.describe(), device, model_id)
    dimension = gradients.loss.layout.dimension
    width = dimension if o.projection == "none" else o.size
    store = FeatureStore(place, len(training), o.groups, width, about, BLOCK)
    draws = shared_draws(sampler, o.draws, o.groups, training.shape, o.seed)
    job = FeatureJob(gradients, projector, draws, o.chunk or 1, o.normalise == "draw", model_id)
    used = {"strategy": sampler.strategy, "noise": sampler.noise}
    return job, store, {"sampler": used, "dimension": dimension, "made with": about}


def require_store(o: InfluenceOptions, training: TrainingSet, place: Path) -> None:
    """That the store in a folder, if there is one, is of as many samples and draws as are asked for, before
    anything is encoded or generated; :func:`prepare_features` holds it against all the rest.

    Raises:
        UserError: it is not.
    """
    wanted = {
        "samples": len(training),
        "groups": o.groups,
        "fingerprint": {"data": training.digest, "draws": _draws(o), "normalise": o.normalise},
    }
    require_alike(place, wanted, whole=False)


def _draws(o: InfluenceOptions) -> dict[str, Any]:
    names = ("draws", "strategy", "proposal", "noise", "seed")
    return {name: getattr(o, name) for name in names}


def fill_store(
    o: InfluenceOptions, job: FeatureJob, store: FeatureStore, training: TrainingSet, processes: Processes
) -> FeatureJob:
    """Makes this process's share of what the store lacks, and waits for the others'; the job with the chunk
    that serves it.

    Raises:
        UserError: no memory for a chunk of gradients.
    """
    missing = store.missing(processes.rank, processes.world_size)
    if not processes.rank and (there := store.count - len(store.missing())):
        log.info(
            "%s has %d of %d blocks of %d training samples already", store.folder, there, store.count, BLOCK
        )
    parts = [store.rows(block) for block in missing]
    try:
        if o.chunk is None:
            job = replace(job, chunk=_chunk(job, training, BLOCK if missing else 8))
        begun = time.perf_counter()
        count = sum(part.stop - part.start for part in parts)
        with progress("training samples", count, processes.rank == 0 and count > 0) as advance:
            for block, part in zip(missing, parts, strict=True):
                rows = []
                for start in range(part.start, part.stop, job.samples_at_once):
                    numbers = torch.arange(start, min(start + job.samples_at_once, part.stop))
                    rows.append(job.features(training.batch(numbers), start))
                    advance(len(numbers))
                store.write(block, torch.cat(rows))
                if not processes.rank:
                    done = time.perf_counter()
                    store.timed(part.stop - part.start, done - begun)
                    begun = done
    except torch.OutOfMemoryError as error:
        raise UserError(f"--chunk: {_too_much(o, job)}; what is in the store stays") from error
    processes.wait()
    return job


def _too_much(o: InfluenceOptions, job: FeatureJob) -> str:
    """What does not fit into memory, and what takes less."""
    many, what = job.chunk > 1, job.gradients.chunk_of
    count = f"{job.chunk} {what} do" if many else f"a single {what.removesuffix('s')} does"
    if what == "samples":
        less = "more --groups, as the draws of a group go through together, or --backend backward"
    elif o.offload:
        less = "less by --parameters"
    elif o.gradient_checkpointing:
        less = "less by --parameters, or of a transformer --offload"
    else:
        less = "--gradient-checkpointing"
    return f"{count} not fit into memory; take {'fewer, or ' if many else ''}{less}"


def pilot_pipeline(o: InfluenceOptions, gradients: SampleGradients, training: TrainingSet) -> Pipeline:
    """What a pilot measures: sketched gradients of some training samples, or their directions where each draw
    is normalised."""
    numbers = torch.tensor(spread(len(training), PILOT_SAMPLES))
    projector, some = build_projector("countsketch", 4096, o.seed), training.batch(numbers)
    directions = o.normalise == "draw"
    return attribution_pipeline(gradients, projector, some, PILOT_CHUNK, numbers, directions)


def _sampler(
    o: InfluenceOptions, place: Path, gradients: SampleGradients, training: TrainingSet
) -> NoiseLevelSampler:
    path = place / "sampler.json"
    if not path.is_file():
        # A proposal by norms suits gradients that keep theirs.
        proposal = "uniform" if o.proposal == AUTO and o.normalise == "draw" else o.proposal
        best = pilot_sampler(
            pilot_pipeline(o, gradients, training),
            o.draws // o.groups,
            o.seed,
            gradients.loss.layout.device,
            o.strategy,
            proposal,
            o.noise,
            progress=log.info,
        )
        write_json(path, sampler_dict(best))
    try:
        return sampler_from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); remove the folder {place}") from error


def _fingerprint(
    o: InfluenceOptions,
    model: AttributedModel,
    made: tuple[str, str],
    gradients: SampleGradients,
    sampler: NoiseLevelSampler,
    projection: dict[str, str | int],
    device: str,
    model_id: int,
) -> dict[str, Any]:
    """Everything that the features of a training set depend on; `made`: what weights and samples are."""
    if o.projection != "none":
        projection = {**projection, "number": model_id}
    if o.projection == "gaussian":
        projection = {**projection, "drawn on": torch.device(device).type}
    sigma = model.schedule.sigma(torch.linspace(0, 1, 101, dtype=torch.float64))
    return {
        "model": made[0],
        "data": made[1],
        "parameters": digest([], " ".join(gradients.loss.chosen)),
        "projection": projection,
        "draws": _draws(o),
        "sampler": digest([sampler.proposal.mass], f"{sampler.strategy} {sampler.noise}"),
        "loss": digest([sigma, *model.denoiser.precondition(sigma)], "" if o.output == "loss" else o.output),
        "normalise": o.normalise,
        "precision": gradients.loss.precision,
    }


def _chunk(job: FeatureJob, training: TrainingSet, largest: int) -> int:
    """By trying: samples with a single group of draws each, or draws of a single sample."""
    draws, layout = job.draws, job.gradients.loss.layout
    one = replace(job, draws=draws[:1])
    if job.gradients.chunk_of == "draws":
        # a draw that is normalised by itself goes through the network by itself
        return 1 if job.normalise_draws else _draws_at_once(one, training.batch(torch.tensor([0])))

    largest = min(largest, len(training))
    some = training.batch(torch.arange(largest))

    def work(count: int) -> object:
        return replace(one, chunk=count).features(some[:count])

    row_bytes = layout.dimension * layout.dtype.itemsize
    return find_chunk(work, row_bytes, largest, layout.device, "samples")


def _draws_at_once(one: FeatureJob, sample: SampleBatch) -> int:
    group = one.draws

    def work(count: int) -> object:
        some = Draws(group.u[:, :count], group.weight[:, :count], group.eps[:, :count])
        return replace(one, chunk=count, draws=some).features(sample)

    device = one.gradients.loss.layout.device
    return find_chunk(work, sample.x.nbytes, group.u.shape[1], device, "draws")
