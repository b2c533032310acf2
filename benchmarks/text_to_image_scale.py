"""Memory and seconds of distilling published text-to-image models: python -m benchmarks.text_to_image_scale

Nothing is downloaded and no GPU is needed: the networks are built from their published configurations without
memory. For each, whole networks and adapters of rank 16 and 64, on 1, 8 and 64 GPUs that share everything:
GiB per GPU by part, TFLOP and seconds of an update. First the model is checked on miniatures, where each of
its parts is measured: what stays after an update of AdamW and the bytes of the tensors that autograd saves
(both within 2 %), the peak of a backward with and without gradient checkpointing (15 %), and that of whole
updates (10 %).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory_checks import (
    Check,
    check_table,
    checks,
    kind_of,
    retype,
    with_adapters,
)
from benchmarks.published_networks import PUBLISHED, Published
from carv_distill.command_line import Parser, whole_number
from carv_distill.distillation.memory.footprint import (
    Footprint,
    footprints,
    parameter_count,
    without_memory,
)
from carv_distill.distillation.memory.needs import GIB, Calls, Need, Plan
from carv_distill.engine.console import quiet_libraries
from carv_distill.files import read_json, write_json

RANKS = (None, 16, 64)
"""Of adapters; None: whole networks."""
GPUS = (1, 8, 64)
CARDS = (24, 80)
PEAKS = {"A100": 312e12, "H100": 989e12}
"""Dense bfloat16 FLOP/s by the vendors' data sheets."""
UTILISATION = 0.4
"""Share of the peak that the network calls reach: an assumption."""


@dataclass(frozen=True)
class Row:
    """A model trained in one way on so many GPUs."""

    model: str
    kind: str
    gpus: int
    learning: int
    need: Need
    kept: float
    """Bytes of activations without gradient checkpointing."""
    tflop: float

    @property
    def seconds(self) -> dict[str, float]:
        """Of an update, by card, without exchanges between GPUs."""
        return {card: self.tflop * 1e12 / (peak * UTILISATION) for card, peak in PEAKS.items()}


def counted(published: Published, rank: int | None) -> tuple[int, int, int, Footprint, Footprint | None]:
    """(parameters, of what learns, of the largest block, footprint, the same with gradient checkpointing)."""
    with torch.device("meta"):
        model = published.build()
        total, block = parameter_count(model.parameters()), largest_block(model)
        if rank is not None:
            model = with_adapters(model, rank)
    learning = parameter_count(p for p in model.parameters() if p.requires_grad)
    with without_memory():
        retype(model, torch.float32 if rank is None else torch.bfloat16)
    return total, learning, block, *footprints(model, published.call, torch.bfloat16)


def largest_block(model: Any) -> int:
    """Parameters of the largest block that a sharding process gathers: of those that diffusers does not split
    between devices, the ones without others inside."""
    kinds = set(model._no_split_modules)
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    inner = [b for b in blocks if sum(type(m).__name__ in kinds for m in b.modules()) == 1]
    return max(parameter_count(block.parameters()) for block in inner)


def rows(published: Published, options: argparse.Namespace) -> Iterator[Row]:
    """All ways to train one model."""
    for rank in RANKS:
        total, learning, block, plain, checkpointed = counted(published, rank)
        calls = Calls(
            plain,
            checkpointed,
            upstream=options.upstream,
            draws=options.draws,
            chunk=options.chunk,
            fake_batch=options.upstream,
            fake_updates=options.fake_updates,
            guided=published.guided,
            checkpointing=not options.keep_activations,
        )
        kept = replace(calls, checkpointing=False).bytes
        for gpus in GPUS:
            lora = rank is not None
            plan = Plan(total, learning, lora, 16, shards=gpus, block=block, calls=calls)
            yield Row(published.name, kind_of(rank), gpus, learning, plan.need, kept, calls.flops / 1e12)


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--upstream", type=whole_number(1), default=1, help="R and dmd.fake_batch, per GPU")
    parser.add_argument("--draws", type=whole_number(1), default=2, help="K")
    parser.add_argument("--chunk", type=whole_number(1), default=1, help="estimator.chunk")
    parser.add_argument("--fake-updates", type=whole_number(1), default=5)
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/text_to_image_scale.json"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    quiet_libraries()
    warnings.filterwarnings("ignore", message="Already found a `peft_config`|Mismatch dtype")
    checked = list(checks())
    print(check_table(checked))
    made: list[Row] = []
    for published in PUBLISHED:
        made += rows(published, options)
        print(f"\n{published.name}: counted", flush=True)
        write_json(options.out, document(options, checked, made))
    print(*page_tables(read_json(options.out)), sep="\n\n")
    if wrong := [check.name for check in checked if abs(check.error) > check.bound]:
        raise SystemExit(f"beyond the stated error: {', '.join(wrong)}")


def document(options: argparse.Namespace, checked: list[Check], made: list[Row]) -> dict[str, Any]:
    """All figures, for JSON."""
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    head = {"torch": torch.__version__, **settings, "utilisation": UTILISATION}
    return {
        **head,
        "checks": [{**asdict(check), "error": check.error} for check in checked],
        "rows": [
            {
                **asdict(row),
                "total_gib": row.need.total / GIB,
                "seconds": row.seconds,
            }
            for row in made
        ],
    }


def page_tables(document: Mapping[str, Any]) -> Iterator[str]:
    """What `docs/scale.md` shows of the file of figures, as Markdown."""
    made = document["rows"]
    by_gpus = {gpus: [row for row in made if row["gpus"] == gpus] for gpus in GPUS}
    cells = [
        (
            *(one["model"], one["kind"], f"{one['learning'] / 1e6:,.0f}"),
            *(_marked(row["total_gib"]) for row in group),
            f"{one['tflop']:,.0f}",
            *(f"{seconds:.2g}" for seconds in one["seconds"].values()),
        )
        for one, *rest in zip(*by_gpus.values(), strict=True)
        for group in [(one, *rest)]
    ]
    gpus = (f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS)
    seconds = (f"s, {card}" for card in PEAKS)
    yield _markdown(("model", "training", "learns, M", *gpus, "TFLOP", *seconds), cells)
    parts = [part for part in asdict(Need()) if part not in ("variance", "beside")]  # which no plan here has
    cells = [
        (row["model"], row["kind"], *(f"{b / GIB:.1f}" for b in (*map(row["need"].get, parts), row["kept"])))
        for row in by_gpus[1]
    ]
    yield _markdown(("model", "training", *parts, "without checkpointing"), cells)


def _marked(gibibytes: float) -> str:
    small, large = (gibibytes * GIB <= card * 1e9 for card in CARDS)
    return f"{gibibytes:.1f} {'●' if small else '○' if large else '–'}"


def _markdown(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, ["---"] * len(headers), *cells))


if __name__ == "__main__":
    main()
