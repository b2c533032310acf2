"""What `evaluate.py clip` says and draws of text-to-3D runs: CLIP score over views, what they match best."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.data.solids import COLOURS, combinations, object_prompt
from carv_distill.engine.folder import product_of, trained_by
from carv_distill.engine.metrics import read_metrics
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.figures import draw_line, new_figure, save_figure, use_whole_numbers
from carv_distill.geometry.solids import SOLIDS, trace
from carv_distill.variance import Estimate, Table, estimate_dict, mean_estimate, with_interval

from .object.turntable import pictures, turntable
from .options import SDSConfig
from .scene_files import load_scene
from .schedules import last_stage

NONE = "–"
"""Of a prompt that names no solid that we can render."""


@dataclass(frozen=True)
class ClipResult:
    """Of one run's object."""

    run: str
    prompt: str
    seed: int
    score: Estimate
    """Mean over views; the interval is over views too."""
    true: Estimate | None
    """The same of the solid itself, where the prompt names one that we can render."""
    matched: float | None
    """Share of views that go with this prompt better than with the 63 other pairs of colour and solid."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        score, true = (None if e is None else estimate_dict(e) for e in (self.score, self.true))
        return asdict(self) | {"score": score, "true": true, "trained": trained_by(Path(self.run))}


def measure_clip(run: Path, config: SDSConfig, model: str | None, views: int, device: str) -> ClipResult:
    """Renders a run's object from around and scores it by a CLIP model: a folder or hub id, or the run's own
    (None)."""
    scene, view, prompt = load_scene(product_of(run, "object"))
    scorer = ClipScorer(model or config.clip.model, device)
    cameras = turntable(views)
    size = last_stage(view.size)
    seen = 2 * pictures(scene.to(device), cameras, size, view.samples, view.background) - 1
    pairs = [*combinations(held_out=False), *combinations(held_out=True)]
    prompts = [object_prompt(*pair) for pair in pairs]
    true, matched = None, None
    if prompt in prompts:
        colour, solid = pairs[prompts.index(prompt)]
        real = 2 * trace(SOLIDS[solid], COLOURS[colour], cameras, size) - 1
        true = scorer.mean(real, prompt)
        best = scorer.best_match(seen, prompts)
        matched = float((best == prompts.index(prompt)).float().mean())
    return ClipResult(str(run), prompt, config.seed, scorer.mean(seen, prompt), true, matched)


def object_views(run: Path, device: str) -> Tensor:
    """Eight views around a run's object, [8, 3, 64, 64] in [0, 1]."""
    scene, view, _ = load_scene(run / "object")
    return pictures(scene.to(device), turntable(8), 64, 2 * view.samples, view.background)


def clip_table(results: Sequence[ClipResult]) -> Table:
    """A row per run, and their mean with an interval over prompts."""
    rows = []
    for r in results:
        matched = NONE if r.matched is None else f"{r.matched:.0%}"
        true = NONE if r.true is None else with_interval(r.true, ".1f")
        rows.append((Path(r.run).name, r.prompt, with_interval(r.score, ".1f"), true, matched))
    if len({r.prompt for r in results}) > 1:
        rows.append(("mean over prompts", "", with_interval(over_prompts(results), ".1f"), "", ""))
    caption = (
        "Over views once around; intervals of 95 %, of a row over its views. Matched: views that go with the "
        "prompt better than with any other pair of colour and solid."
    )
    if any(r.true is None for r in results):
        caption += f" {NONE}: the prompt names no such pair, as “a red cube” does."
    return Table(
        "CLIP score, 100 · cosine of picture and prompt",
        ("run", "prompt", "CLIP score", "true solid", "matched"),
        rows,
        caption,
    )


def over_prompts(results: Sequence[ClipResult]) -> Estimate:
    """Mean score over prompts, each the mean over its seeds; the interval is over prompts."""
    prompts = sorted({r.prompt for r in results})
    return mean_estimate([statistics.fmean(r.score.value for r in results if r.prompt == p) for p in prompts])


def draw_clip(runs: Sequence[Path], path: Path) -> bool:
    """CLIP score over steps, a line for each run with its band over views; False, and no file, if none was
    traced twice."""
    traced = [[r for r in read_metrics(run / "metrics.csv") if "clip/score" in r] for run in runs]
    if max(map(len, traced)) < 2:
        return False
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    for i, (run, rows) in enumerate(zip(runs, traced, strict=True)):
        if rows:
            draw_line(axes, rows, "step", "clip/score", f"C{i}", run.name)
    axes.set(xlabel="steps", ylabel="CLIP score (bands: 95 % over views)")
    use_whole_numbers(axes)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)
    return True


def draw_views(objects: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """A row of views for each object, [n, 3, S, S] in [0, 1], with its name at the left."""
    side, turns = objects[0].shape[-1], len(objects[0])
    picture = torch.cat([views.clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2) for views in objects])
    figure = new_figure(0.6 + 6.4 / turns * len(objects))
    axes = figure.subplots()
    axes.imshow(picture.numpy(), interpolation="nearest", aspect="auto")
    axes.set_xlabel("azimuth of the camera")
    axes.set_xticks([(i + 0.5) * side for i in range(turns)], [f"{360 * i // turns}°" for i in range(turns)])
    axes.set_yticks([(i + 0.5) * side for i in range(len(names))], names)
    for i in range(1, len(names)):
        axes.axhline(i * side - 0.5, color="white", lw=2)
    save_figure(figure, path)
