"""What `evaluate.py clip` says of text-to-3D runs: CLIP score over views, and whom they match best."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from carv_distill.data.shapes import COLOURS, combinations, object_prompt
from carv_distill.engine.folder import origin_of, run_config
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.geometry.solids import SOLIDS, trace
from carv_distill.variance import Estimate, mean_estimate
from carv_distill.variance.report import estimate_dict

from .export import load_scene, pictures, turntable
from .options import SDSConfig


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
        return {
            "run": self.run,
            "prompt": self.prompt,
            "seed": self.seed,
            "score": estimate_dict(self.score),
            "true": None if self.true is None else estimate_dict(self.true),
            "matched": self.matched,
            "trained": origin_of(Path(self.run)),
        }


def measure_clip(run: Path, model: str | None, views: int, device: str) -> ClipResult:
    """Renders a run's object from around and scores it.

    Args:
        model: CLIP folder or hub id; None is the run's own.
        views: cameras once around.

    Raises:
        UserError: a run of another task, one without an object, or no CLIP model.
    """
    config = run_config(run, SDSConfig)
    if not (run / "object").is_dir():
        raise UserError(f"{run}: no object folder; the run has not reached its first checkpoint")
    scene, view, prompt = load_scene(run / "object")
    scorer = ClipScorer(model or config.clip.model, device)
    cameras = turntable(views)
    seen = 2 * pictures(scene.to(device), cameras, view.size, view.samples, view.background) - 1
    pairs = [*combinations(held_out=False), *combinations(held_out=True)]
    prompts = [object_prompt(*pair) for pair in pairs]
    true, matched = None, None
    if prompt in prompts:
        colour, solid = pairs[prompts.index(prompt)]
        real = 2 * trace(SOLIDS[solid], COLOURS[colour], cameras, view.size) - 1
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
    table = Table(
        "run",
        "prompt",
        "CLIP score",
        "true solid",
        "matched",
        box=SIMPLE_HEAD,
        title="CLIP score, 100 · cosine of picture and prompt",
        title_justify="left",
        caption_justify="left",
    )
    for r in results:
        matched = "" if r.matched is None else f"{r.matched:.0%}"
        table.add_row(Path(r.run).name, r.prompt, _of(r.score), _of(r.true), matched)
    if len({r.prompt for r in results}) > 1:
        table.add_row("mean over prompts", "", _of(over_prompts(results)), "", "", style="bold")
    table.caption = (
        "Over views once around; intervals of 95 %, of a row over its views. Matched: views that go with the "
        "prompt better than with any other pair of colour and solid."
    )
    return table


def over_prompts(results: Sequence[ClipResult]) -> Estimate:
    """Mean score over prompts, each the mean over its seeds; the interval is over prompts."""
    prompts = sorted({r.prompt for r in results})
    return mean_estimate([statistics.fmean(r.score.value for r in results if r.prompt == p) for p in prompts])


def _of(e: Estimate | None) -> str:
    return "" if e is None else f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"
