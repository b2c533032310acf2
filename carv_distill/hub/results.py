"""What was measured of a product, from the files of its run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from carv_distill.errors import UserError
from carv_distill.evaluation import copies
from carv_distill.report.files import RunFiles

log = logging.getLogger(__name__)

METRICS = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall", "copied": copies.NAME}
"""Of samples, as the hub calls them and as they are written."""
CLIP = "clip_score", "CLIP score"
PROMPTS = "prompts"
"""The kind of data that a CLIP score is measured on."""


@dataclass(frozen=True)
class Result:
    """A metric of a product."""

    metric: str
    """As the hub calls it."""
    name: str
    value: float
    spread: str
    """As " ± 0.1" or " [1, 2]"; empty: not known."""
    kind: str
    """Of the data that it was measured on: a data set's name, or :data:`PROMPTS`."""
    data: str
    setting: str
    """Of how many images, by which features, and what its spread is over."""
    traced: bool = False
    """Whether the run measured it, and not evaluate.py afterwards."""

    @property
    def text(self) -> str:
        """The value with its spread."""
        return f"{self.value:.4g}{self.spread}"

    def to_eval(self, task: str) -> EvalResult:
        """For the card's metadata."""
        return EvalResult(
            task_type=task,
            dataset_type=self.kind,
            dataset_name=self.data,
            metric_type=self.metric,
            metric_name=self.name,
            metric_value=float(f"{self.value:.4g}"),
            metric_args={"value": self.text, "setting": self.setting},
        )


def results_of(run: RunFiles, step: int | None) -> list[Result]:
    """What evaluate.py measured of the product, else what the run did at the product's update.

    Args:
        step: the update that the product is of; a measurement of another one is left out, and said.

    Raises:
        UserError: a JSON is not what evaluate.py writes.
    """
    measured = [*_measured(run, "fid", step, _of_samples), *_measured(run, "clip", step, _of_prompts)]
    names = {result.name for result in measured}
    return [*measured, *(result for result in _traced(run, step) if result.name not in names)]


def _measured(
    run: RunFiles, command: str, step: int | None, read: Callable[[Mapping[str, Any]], Iterator[Result]]
) -> list[Result]:
    """Of one of evaluate.py's JSON files."""
    content, file = run.measured.get(command), run.folder / f"{command}.json"
    if content is None:
        return []
    try:
        measured = content["trained"].get("product_step")
        if measured == step:
            return list(read(content))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not what evaluate.py {command} writes; measure again, or remove it"
        ) from error
    log.warning(
        "%s is of update %s, the product of update %s: it is left out; "
        "python evaluate.py %s --run %s measures again",
        file,
        measured,
        step,
        command,
        run.folder,
    )
    return []


def _of_samples(content: Mapping[str, Any]) -> Iterator[Result]:
    """The first generator of `evaluate.py fid` is the product."""
    (report, *_) = [r for r in content.values() if isinstance(r, Mapping) and "summary" in r]
    ranges, images = report["seed_ranges"], report["images"]
    setting = f"{len(ranges)} × {images:,} images, seeds {ranges[0][0]} to {ranges[-1][1]}, "
    setting += f"{report['extractor']} features" + (", ± over the ranges of seeds" if len(ranges) > 1 else "")
    for metric, name in METRICS.items():
        if (summary := report["summary"].get(metric)) is not None:
            spread = "" if summary["std"] is None else f" ± {summary['std']:.2g}"
            data = report["reference"]
            yield Result(metric, name, summary["mean"], spread, data, data, setting)


def _of_prompts(content: Mapping[str, Any]) -> Iterator[Result]:
    """Of an object the views around it, of a student its pictures: those of the first generator."""
    (about,) = content["runs"]
    if "scores" in about:
        (score, *_) = about["scores"].values()
        data = f"{about['prompts']:,} {about['prompts_from']}"
        setting = f"{score['images']:,} images, CLIP model {about['model_fingerprint']}, ± standard error"
        spread = f" ± {score['clip']['se']:.2g}"
        yield Result(*CLIP, score["clip"]["mean"], spread, PROMPTS, data, setting)
    else:
        value, (low, high) = about["score"]["value"], about["score"]["interval"]
        yield Result(
            *CLIP,
            value,
            f" [{low:.3g}, {high:.3g}]",
            PROMPTS,
            about["prompt"],
            "views once around, interval of 95 %",
        )


def _traced(run: RunFiles, step: int | None) -> Iterator[Result]:
    """Measured along the training, at the product's own update."""
    row = next((row for row in reversed(run.metrics) if row["step"] == step), {})
    data = str(run.option("data.name"))
    setting = f"{run.option('fid.images')} images, {run.option('fid.features')} features"
    for metric, name in METRICS.items():
        if f"fid/{metric}" in row:
            yield Result(metric, name, row[f"fid/{metric}"], "", data, data, setting, traced=True)
    if "clip/score" in row:
        spread = f" [{row['clip/score_low']:.3g}, {row['clip/score_high']:.3g}]"
        prompt, views = (
            str(run.option("sds.prompt")),
            f"{run.option('clip.views')} views once around, interval of 95 %",
        )
        yield Result(*CLIP, row["clip/score"], spread, PROMPTS, prompt, views, traced=True)
