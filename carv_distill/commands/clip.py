"""evaluate.py clip: CLIP score of pictures with prompts, or of objects from around."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.evaluation.options import FIDOptions
from carv_distill.options import as_in, at_least, option

from .command import Command, CommonOptions, Measurement

if TYPE_CHECKING:
    from carv_distill.data.captioned import CaptionedSet
    from carv_distill.evaluation.clip import ClipFeatures
    from carv_distill.evaluation.prompt_scores import PromptScores
    from carv_distill.processes import Processes


@dataclass(frozen=True)
class ClipOptions(CommonOptions):
    """What `evaluate.py clip` is told."""

    run: tuple[Path, ...] | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    model: str | None = None
    """CLIP folder or hub id; default: the run's"""
    views: int = at_least(2, 12)
    """of objects: cameras once around"""
    prompts: Path | None = option(None, metavar="FILE")
    """of students: score these, one a line; default: those that it learned from"""
    images: int | None = at_least(4, None)
    """of students: pictures of each generator; default: as many as of the run's FIDs"""
    labels: str | None = as_in(FIDOptions, "labels")
    """of students: the prompts of seeds, at random or in turn"""
    sampler_steps: int | None = as_in(FIDOptions, "sampler_steps")
    """of students: steps of the teacher's own samples"""
    no_teacher: bool = False
    """of students: leave the teacher's own samples out"""


OBJECTS = ("views",)
PICTURES = ("prompts", "images", "labels", "sampler_steps", "no_teacher")
"""Options of runs of one kind alone."""


def _measure(options: ClipOptions, runs: list[Path], device: str) -> Measurement | None:
    opened = {run: CLIP.open(run, options) for run in runs}
    if len({task.name for task, _ in opened.values()}) > 1:
        raise UserError("--run: objects and students are measured apart; give runs of one task")
    if all(task.generators is None for task, _ in opened.values()):
        return _objects(options, {run: config for run, (_, config) in opened.items()}, device)
    return _pictures(options, opened, device)


def _objects(options: ClipOptions, configs: dict[Path, Any], device: str) -> Measurement:
    from carv_distill.text_to_3d.clip_report import (
        clip_table,
        draw_clip,
        draw_views,
        measure_clip,
        object_views,
    )

    runs = list(configs)
    results = [measure_clip(r, c, options.model, options.views, device) for r, c in configs.items()]
    figure = options.out.with_suffix(".png") if options.out else runs[0] / "figures" / "clip.png"
    drawn = draw_clip(runs, figure)
    sheet = figure.with_stem(f"{figure.stem}_views")
    draw_views([object_views(r, device) for r in runs], [r.prompt for r in results], sheet)
    shown = [clip_table(results), *([f"drawn: {figure}"] if drawn else []), f"drawn: {sheet}"]
    return Measurement(shown, {"runs": [r.to_dict() for r in results]})


def _pictures(options: ClipOptions, opened: dict[Path, tuple[Task, Any]], device: str) -> Measurement | None:
    from carv_distill.engine.folder import trained_by
    from carv_distill.evaluation.clip import ClipFeatures
    from carv_distill.evaluation.features import SOLIDS_CLIP
    from carv_distill.evaluation.prompt_scores import prompt_table
    from carv_distill.processes import Processes

    models = {}
    for run, (_, config) in opened.items():
        if options.model is None and config.fid.features != "clip":
            raise UserError(
                f"--model: {run} is followed by features of {config.fid.features}; name a CLIP model, as its "
                f"folder or hub id (the one of the solids is {SOLIDS_CLIP})"
            )
        models[run] = options.model or config.fid.weights or str(SOLIDS_CLIP)
    processes = Processes.launched(device)
    key = "--model" if options.model else "fid.weights"
    extractors = {m: ClipFeatures(m, key=key).to(processes.device) for m in dict.fromkeys(models.values())}
    rows, results, abouts = [], [], []
    for run, (task, config) in opened.items():
        extractor = extractors[models[run]]
        scores, prompts, source = _scores(options, run, task, config, extractor, processes)
        rows.append((run.name, scores))
        abouts.append(f"{prompts:,} {source}, CLIP model {extractor.fingerprint}.")
        results.append(
            {
                "run": str(run),
                "model": models[run],
                "model_fingerprint": extractor.fingerprint,
                "prompts": prompts,
                "prompts_from": source,
                "labels": options.labels or config.fid.labels,
                "scores": {s.name: s.to_dict() for s in scores},
                "trained": trained_by(run),
            }
        )
    if processes.rank:
        return None
    if len(set(abouts)) > 1:
        abouts = [f"{run}: {about}" for (run, _), about in zip(rows, abouts, strict=True)]
    return Measurement([prompt_table(rows, " ".join(dict.fromkeys(abouts)))], {"runs": results})


def _scores(
    options: ClipOptions, run: Path, task: Task, config: Any, extractor: ClipFeatures, processes: Processes
) -> tuple[list[PromptScores], int, str]:
    """Student, averages beside it, teacher, and the captioned images where the prompts are theirs; the number
    of different prompts, and which they are."""
    from carv_distill.data.captioned import PromptList
    from carv_distill.data.sets import ImageSpec
    from carv_distill.evaluation.prompt_scores import PromptScorer
    from carv_distill.evaluation.prompted import Prompted

    given = {k: getattr(options, k) for k in ("images", "labels", "sampler_steps")}
    config.fid = replace(config.fid, **{k: v for k, v in given.items() if v is not None})
    if options.prompts is not None:
        config.prompts = replace(config.prompts, path=str(options.prompts))
    assert task.generators is not None
    generators = task.generators(config, run, str(processes.device), True)
    first = generators[0]
    prompts, latent, size = first.prompts, first.latent, first.size
    assert prompts is not None
    assert latent is not None
    assert size is not None
    scorer = PromptScorer(
        extractor,
        Prompted.of(prompts, extractor, latent),
        ImageSpec(run.name, 3, size, len(prompts.captions)),
        config.fid.images,
        config.fid.labels,
        processes,
    )
    wanted = [g for g in generators if not (g.teacher and options.no_teacher)]
    samples = [(g.name, g.load()) for g in wanted]  # what is missing is said before the work
    scores = [scorer.generator(name, sample) for name, sample in samples]
    if isinstance(prompts, PromptList):
        source = f"prompts of {prompts.name}"
    else:
        data = cast("CaptionedSet", prompts)
        scores.append(scorer.captioned("captioned images", data))
        source = f"prompts, the captions of {data.spec.name}"
    return [s for s in scores if s is not None], len(set(prompts.objects)), source


def _refusal(task: Task, config: Any, options: ClipOptions) -> str:
    assert task.prompted is not None
    if not task.prompted(config):
        made = f"python train.py --config configs/{CLIP.example} makes one with prompts"
        return f"a CLIP score is of pictures with prompts, and this run has labels; {made}"
    others, has = (PICTURES, "an object") if task.generators is None else (OBJECTS, "a student")
    for spec in fields(options):
        if spec.name in others and getattr(options, spec.name) != spec.default:
            return (
                f"--{spec.name.replace('_', '-')}: this run has {has}, of which it says nothing; leave it out"
            )
    return ""


CLIP = Command(
    "clip",
    "CLIP score of pictures with prompts, or of objects from around",
    ClipOptions,
    _measure,
    "prompted",
    refusal=_refusal,
    example="text_to_image/dmd_shapes.yaml",
    shared=True,
)
