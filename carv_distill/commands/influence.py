"""python evaluate.py influence: which training samples shaped given ones, and how many draws that takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from carv_distill.attribution.options import (
    AUTO,
    INDEPENDENT,
    NOISES,
    NORMALISE,
    PRECISIONS,
    PROJECTIONS,
    PROPOSALS,
    SCORES,
    InfluenceOptions,
)
from carv_distill.cli import number_from, whole_number

from .command import Command, Found, add_run_option


def _options(parser: argparse.ArgumentParser) -> None:
    add_run_option(parser)
    add = parser.add_argument
    add("--teacher", metavar="FOLDER", help="a teacher's folder or hub id instead of a run; needs --data")
    add("--data", help="with --teacher, its training set: digits | shapes")
    add(
        "--queries",
        default="samples:8",
        metavar="WHAT",
        help="samples:8, the model's own; data:3,14, of the training set; or an .npz with images and labels "
        "or prompts (samples:8)",
    )
    add("--draws", type=whole_number(1), default=16, help="K, noise levels and noises of each sample (16)")
    add("--groups", type=whole_number(1), default=4, help="independent parts of them, for intervals (4)")
    for name, names, what in (
        ("--strategy", INDEPENDENT, "of noise levels; auto: a pilot tries some"),
        ("--proposal", PROPOSALS, "density of noise levels; auto: likewise"),
        ("--noise", NOISES, "coupling of noises; auto: likewise"),
    ):
        add(name, choices=(AUTO, *names), default=AUTO, help=what)
    add("--seed", type=whole_number(0), default=0, help="of draws, pilots and projection (0)")
    add(
        "--parameters",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="by name, as up_blocks.*.weight (all)",
    )
    add("--projection", choices=PROJECTIONS, default="countsketch", help="of gradients (countsketch)")
    add("--size", type=whole_number(1), default=4096, help="numbers that a gradient is projected to (4096)")
    add(
        "--score",
        choices=SCORES,
        default="trak",
        help="of mean gradients: cosine, inner product, its sum over --checkpoints (tracin), or its value "
        "with the inverse of the projected Gram matrix, which discounts what gradients share (trak)",
    )
    add(
        "--normalise",
        choices=NORMALISE,
        default="mean",
        help="which gradients a cosine normalises (mean)",
    )
    add(
        "--debias",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="products across groups of draws alone, free of the bias of shared ones (all but trak)",
    )
    add("--damping", type=number_from(0), default=1.0, help="of trak, relative to the mean eigenvalue (1)")
    add(
        "--checkpoints",
        type=whole_number(0),
        nargs="+",
        metavar="STEP",
        help="of tracin, those that the run kept",
    )
    add("--precision", choices=(AUTO, *PRECISIONS), default=AUTO, help="auto: bf16 on CUDA")
    add("--chunk", type=whole_number(1), help="samples at a time; default: found by trying")
    add("--store", type=Path, metavar="FOLDER", help="of the features; default: store beside the figures")
    add(
        "--scores",
        type=Path,
        metavar="FILE",
        help=".npz or .parquet; default: <score>.npz beside the figures",
    )
    add("--top", type=whole_number(1), default=8, help="training samples shown of each query (8)")


def _measure(arguments: argparse.Namespace, run: Path | None, device: str) -> Found | None:
    names = InfluenceOptions.__dataclass_fields__
    options = InfluenceOptions(**{name: getattr(arguments, name) for name in names})

    # after the options, so that a mistake in them does not wait for diffusers and Lightning
    from carv_distill.attribution.figures import draw_influence
    from carv_distill.attribution.measure import measure_influence
    from carv_distill.attribution.report import influence_dict, influence_table

    folder = arguments.out.with_suffix("") if arguments.out else Path(run or "", "influence")
    found = measure_influence(run, options, folder, device)
    if found is None:
        return None
    drawn = draw_influence(found, arguments.top, folder)
    shown = [*influence_table(found, min(arguments.top, 5)), *(f"drawn: {path}" for path in drawn)]
    return Found([*shown, f"scores: {found.scores}"], influence_dict(found, arguments.top))


INFLUENCE = Command(
    "influence",
    ("dmd", "teacher", "text_teacher"),
    "which training samples shaped given ones",
    _options,
    _measure,
    interrupted="interrupted; the features made so far are in the store, the same command goes on with them",
)
