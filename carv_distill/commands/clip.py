"""python evaluate.py clip: CLIP score of objects, for prompts × seeds; draws the scores over training."""

from __future__ import annotations

import argparse
from pathlib import Path

from carv_distill.cli import whole_number

from .command import NEWEST, Command, Found


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, nargs="+", metavar="FOLDER", help=NEWEST)
    parser.add_argument("--views", type=whole_number(2), default=12, help="cameras once around (12)")
    parser.add_argument("--model", help="CLIP folder or hub id; default: the run's")


def _measure(arguments: argparse.Namespace, run: Path, device: str) -> Found:
    from carv_distill.text_to_3d.clip_report import clip_table, measure_clip, object_views
    from carv_distill.text_to_3d.figures import draw_clip, draw_views

    runs = arguments.run or [run]
    results = [measure_clip(r, arguments.model, arguments.views, device) for r in runs]
    figure = arguments.out.with_suffix(".png") if arguments.out else run / "figures" / "clip.png"
    drawn = draw_clip(runs, figure)
    sheet = figure.with_stem(f"{figure.stem}_views")
    draw_views([object_views(r, device) for r in runs], [r.prompt for r in results], sheet)
    said = [clip_table(results), *([f"drawn: {figure}"] if drawn else []), f"drawn: {sheet}"]
    return Found(said, {"runs": [r.to_dict() for r in results]})


CLIP = Command("clip", ("sds",), "CLIP score of objects, for prompts × seeds", _options, _measure)
