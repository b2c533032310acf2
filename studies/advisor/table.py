"""All pipelines: predicted and measured, in a table, in words and as a picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from carv_distill.figures import BLUE, ORANGE, new_figure
from studies.advisor import attributed, gradients
from studies.advisor.cases import CASES, QUICK, Prediction, Sizes
from studies.cached import compute
from studies.plots import plain_numbers
from studies.runs import train_all
from studies.sentences import show
from studies.study import Row, columns

SMALL = 0.1
"""A miss by less is said to be small."""
SIZE, QUICK_SIZE = (17, 80, 80), (5, 32, 32)


def measure_all(folder: Path, parts: Collection[str], quick: bool, workers: int) -> dict[str, Prediction]:
    """Of every pipeline of these parts; one after the other, as seconds are timed."""
    updates = 8 if quick else None
    cases = [case for case in CASES if case.part in parts]
    for case in cases:
        train_all([case.run(updates)], case.config, folder, workers)
    sizes = QUICK if quick else Sizes()
    calls = {case.name: partial(gradients.predict, folder / case.run().name, sizes) for case in cases}
    teachers: list[Path] = []
    if "attribution" in parts:
        size, teachers = QUICK_SIZE if quick else SIZE, list(map(Path, attributed.TEACHERS))
        calls |= {name: partial(attributed.predict, name, size, sizes) for name in attributed.ATTRIBUTED}
    found: dict[str, Prediction] = compute(calls, folder / "cache", 1, teachers)
    return found


def rows(found: Mapping[str, Prediction]) -> list[Row]:
    """A row for each pipeline."""
    made = []
    for name, p in found.items():
        row: Row = {"pipeline": name, "sampler": p.sampler}
        row |= {"upstream": p.setting[0], "draws": p.setting[1]}
        row |= columns("predicted", p.predicted) | columns("measured", p.measured)
        row |= columns("measured_over_predicted", p.ratio) | {"half_width": p.half_width}
        for what, (before, after) in {"variance": p.variance, "seconds": p.seconds}.items():
            row |= {f"{what}_predicted": before, f"{what}_measured": after}
        made.append(row | {"held": p.held})
    return made


def sentences(found: Mapping[str, Prediction]) -> list[str]:
    """How many hold, and each in words."""
    held = sum(p.held for p in found.values())
    said = [
        f"Predicted and measured effective compute agree within their intervals on {held} of {len(found)}."
    ]
    for name, p in found.items():
        at = f"{p.sampler} ({p.setting[0]}, {p.setting[1]}) against uniform ({p.base[0]}, {p.base[1]})"
        line = f"{name}: {at}, predicted {show(p.predicted)}, measured {show(p.measured)}"
        said.append(f"{line}: {hit(p) if p.held else miss(p)}.")
    return said


def hit(p: Prediction) -> str:
    """How near, and how far off would still be one."""
    return f"hit, × {p.ratio.value:.2f}, where a miss by less than about × {p.half_width:.2f} is not seen"


def miss(p: Prediction) -> str:
    """How far, and by which of its two factors."""
    off = p.ratio.value - 1
    variance, seconds = p.variance[1] / p.variance[0], p.seconds[0] / p.seconds[1]
    size = "a small miss" if abs(off) < SMALL else "a miss"
    return f"{size}, × {p.ratio.value:.2f}, of which variance × {variance:.2f} and seconds × {seconds:.2f}"


def draw(found: Mapping[str, Prediction]) -> Figure:
    """Predicted and measured, with 95 % intervals, a row for each pipeline."""
    figure = new_figure(0.6 * len(found) + 1.2)
    axes = figure.add_subplot()
    for place, p in enumerate(found.values()):
        for e, shift, colour, marker, label in (
            (p.predicted, -0.12, ORANGE, "s", "predicted"),
            (p.measured, 0.12, BLUE, "o", "measured anew"),
        ):
            ends = [[e.value - e.low], [e.high - e.value]]
            shown = label if not place else None
            axes.errorbar([e.value], [place + shift], xerr=ends, fmt=marker, color=colour, label=shown)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set(xlabel="effective compute of the advice")
    low, high = axes.get_xlim()
    plain_numbers(axes.xaxis, [t for t in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if low <= t <= high])
    axes.grid(alpha=0.25, axis="x")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
