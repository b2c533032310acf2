"""evaluate.py fid: sample quality over several ranges of seeds."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carv_distill.data.options import CAPTIONED
from carv_distill.engine.task import Task
from carv_distill.evaluation.options import FIDOptions
from carv_distill.options import as_in, at_least

from .command import Command, Measurement, RunOptions

if TYPE_CHECKING:
    from carv_distill.data.captioned import CaptionedSet
    from carv_distill.data.sets import ImageSet
    from carv_distill.evaluation.fid import HeldOut
    from carv_distill.evaluation.floor import Floor, NoFloor
    from carv_distill.evaluation.prompted import Prompted
    from carv_distill.evaluation.reference import FIDSetup, Reference

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FIDCommandOptions(RunOptions):
    """What `evaluate.py fid` is told; by default features and images are those of the run's own FIDs."""

    images: int | None = as_in(FIDOptions, "images")
    """per seed range"""
    ranges: int = at_least(1, 3)
    """seed ranges"""
    features: str | None = as_in(FIDOptions, "features")
    """whose distances are measured"""
    weights: str | None = as_in(FIDOptions, "weights")
    """classifier folder, Inception weights file, or CLIP folder"""
    reference: str | None = as_in(FIDOptions, "reference")
    """.npz with mu and sigma, instead of the data set"""
    labels: str | None = as_in(FIDOptions, "labels")
    """of the seeds: random, as EDM has them, or in turn"""
    sampler_steps: int | None = as_in(FIDOptions, "sampler_steps")
    """of the teacher's own samples"""
    no_teacher: bool = False
    """leave the teacher's own samples out"""
    floor: bool = True
    """what a perfect generator would score; with tens of thousands of images it takes minutes"""


def _measure(options: FIDCommandOptions, runs: list[Path], device: str) -> Measurement | None:
    from carv_distill.data.images import load_data
    from carv_distill.evaluation.prompted import captioned_setup
    from carv_distill.evaluation.quality_table import floor_summary, report_table
    from carv_distill.evaluation.reference import FIDSetup
    from carv_distill.evaluation.report import evaluate_generator
    from carv_distill.processes import Processes

    (run,) = runs
    task, config = FID.open(run, options)
    names = ("images", "features", "weights", "reference", "labels", "sampler_steps")
    given = {k: getattr(options, k) for k in names}
    given = {k: v for k, v in given.items() if v is not None}
    as_trained = not given.keys() - {"sampler_steps"}
    if given.get("features", config.fid.features) != config.fid.features:
        config.fid = replace(config.fid, weights=None, reference=None)  # those were for other features
    config.fid = replace(config.fid, **given)
    processes = Processes.launched(device)
    data = load_data(config.data, wanted=config.fid.reference is None)
    device = str(processes.device)
    assert task.generators is not None
    generators = task.generators(config, run, device, False)
    latent, prompted = generators[0].latent, None
    if latent is None:
        setup = FIDSetup.load(config.fid, data, config.data.workers, device)
    else:
        setup, prompted = captioned_setup(
            config.fid, cast("CaptionedSet", data), config.data.workers, device, latent
        )
    wanted = [g for g in generators if not (g.teacher and options.no_teacher)]
    samples = [(g, g.load()) for g in wanted]
    reference = setup.reference(processes)
    reports = [
        evaluate_generator(
            sample,
            data.spec,
            setup.extractor,
            reference,
            name=generator.name,
            images=config.fid.images,
            ranges=options.ranges,
            progress=True,
            labels=config.fid.labels,
            processes=processes,
            prompted=prompted,
        )
        for generator, sample in samples
    ]
    if processes.rank:
        return None
    floor = _floor(config.fid, setup, data, prompted, reference) if options.floor else None
    result: dict[str, Any] = {r.name: r.to_dict() for r in reports}
    summary = {key: asdict(each) for key, each in floor_summary(floor).items()}
    result["floor"] = None if floor is None else floor.to_dict() | ({"summary": summary} if summary else {})
    return Measurement([f"run {run}\n", report_table(reports, floor, as_trained)], result)


def _floor(
    options: FIDOptions, setup: FIDSetup, data: ImageSet, prompted: Prompted | None, reference: Reference
) -> Floor | HeldOut | NoFloor:
    from carv_distill.data.solids import PromptedImages
    from carv_distill.evaluation.floor import measure_floor, rendered_floor

    if prompted is not None and isinstance(data, PromptedImages):
        log.info("floor: ten sets of %s by other cameras", reference.name)
        return rendered_floor(data, prompted, setup.extractor, reference, options.images, options.labels)
    if reference.features is not None:
        log.info("floor: ten splits of %s", reference.name)
    return measure_floor(reference, options.images, options.labels)


def _refusal(task: Task, config: Any, options: FIDCommandOptions) -> str:
    if config.data.name in CAPTIONED and config.data.path is None and CAPTIONED[config.data.name].needs:
        return (
            "FID is a distance from images, and this run has prompts alone; python evaluate.py clip scores it"
        )
    return ""


FID = Command(
    "fid",
    "sample quality over several ranges of seeds",
    FIDCommandOptions,
    _measure,
    "generators",
    refusal=_refusal,
    shared=True,
)
