"""evaluate.py clip: CLIP score of objects, for prompts × seeds; draws the scores over training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.options import at_least, option

from .command import Command, CommonOptions, Measurement


@dataclass(frozen=True)
class ClipOptions(CommonOptions):
    """What `evaluate.py clip` is told."""

    run: tuple[Path, ...] | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    views: int = at_least(2, 12)
    """cameras once around"""
    model: str | None = None
    """CLIP folder or hub id; default: the run's"""


def _measure(options: ClipOptions, runs: list[Path], device: str) -> Measurement:
    from carv_distill.text_to_3d.clip_report import (
        clip_table,
        draw_clip,
        draw_views,
        measure_clip,
        object_views,
    )

    configs = {run: CLIP.open(run)[1] for run in runs}
    results = [measure_clip(r, c, options.model, options.views, device) for r, c in configs.items()]
    figure = options.out.with_suffix(".png") if options.out else runs[0] / "figures" / "clip.png"
    drawn = draw_clip(runs, figure)
    sheet = figure.with_stem(f"{figure.stem}_views")
    draw_views([object_views(r, device) for r in runs], [r.prompt for r in results], sheet)
    shown = [clip_table(results), *([f"drawn: {figure}"] if drawn else []), f"drawn: {sheet}"]
    return Measurement(shown, {"runs": [r.to_dict() for r in results]})


CLIP = Command("clip", "CLIP score of objects, for prompts × seeds", ClipOptions, _measure, "renders")
