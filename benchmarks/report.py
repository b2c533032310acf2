"""A benchmark's ratios on the screen and as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from carv_distill.command_line import Parser
from carv_distill.variance import Table


def options(
    description: str | None, rounds: int, config: str = "configs/dmd_carv.yaml"
) -> argparse.Namespace:
    """--config, --rounds and --out of a benchmark's command line."""
    parser = Parser(description)
    parser.add_argument("--config", type=Path, default=Path(config))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def report(
    title: str,
    results: Mapping[str, tuple[float, float, float]],
    bounds: Mapping[str, float],
    rounds: int,
    out: Path | None,
) -> None:
    """Prints a table of (median, low, high) per ratio beside its bound; writes it if `out` is given."""
    rows = [
        (name, f"{value:.3g}", f"[{low:.3g}, {high:.3g}]", f"{bounds[name]}")
        for name, (value, low, high) in results.items()
    ]
    print(Table(title, ("ratio", "median", "95 % interval", "bound"), rows))
    if out:
        named = {n: {"ratio": v, "interval": [a, b], "bound": bounds[n]} for n, (v, a, b) in results.items()}
        head = {"rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__}
        out.write_text(json.dumps(head | named, indent=2) + "\n")
