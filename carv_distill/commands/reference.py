"""python evaluate.py reference: a data set's statistics, for FIDs against it."""

from __future__ import annotations

import argparse
from typing import Any

from carv_distill.cli import whole_number
from carv_distill.data.options import DATA_SETS, DataOptions

from .command import Command, Found


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=DATA_SETS, required=True, help="the data set")
    parser.add_argument("--path", help="its folder or zip, where it needs one")
    parser.add_argument("--features", choices=("digits", "inception", "clip"), default="inception")
    parser.add_argument("--weights", help="classifier folder, Inception weights file, or CLIP folder")
    parser.add_argument("--workers", type=whole_number(0), default=2, help="processes that decode files (2)")


def _measure(arguments: argparse.Namespace, run: Any, device: str) -> Found | None:
    from rich.progress import Progress

    from carv_distill.data.images import load_images
    from carv_distill.errors import UserError
    from carv_distill.evaluation.extractors import load_extractor
    from carv_distill.evaluation.reference import Reference
    from carv_distill.processes import Processes

    if arguments.out.suffix != ".npz":
        raise UserError(f"--out: {arguments.out} must end in .npz; that is what statistics are kept in")
    # labels do not matter here, and a file without them is as good
    data = load_images(DataOptions(arguments.data, arguments.path, labels=False, workers=arguments.workers))
    processes = Processes.launched(device)
    extractor = load_extractor(arguments.features, arguments.weights, key="--weights")
    extractor.to(processes.device)
    if not extractor.takes(data.spec):
        raise UserError(f"--features: {arguments.features} does not take the images of {data.spec.name}")
    with Progress(disable=processes.rank > 0) as bar:
        task = bar.add_task(data.spec.name, total=len(data))
        reference = Reference.from_set(
            data,
            extractor,
            processes,
            arguments.workers,
            lambda count: bar.advance(task, count),
            kept=0,
        )
    if processes.rank:
        return None
    about: dict[str, int | str] = {
        "images": len(data),
        "size": data.spec.size,
        "extractor": extractor.fingerprint,
    }
    reference.statistics.save(arguments.out, **about)
    shown = f"statistics of {len(data):,} images, {extractor.name} features: {arguments.out}"
    return Found([shown], {"data": data.spec.name, "features": extractor.name, **about})


REFERENCE = Command("reference", (), "a data set's statistics, for FIDs against it", _options, _measure)
