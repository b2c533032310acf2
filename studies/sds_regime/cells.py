"""W/B of text-to-3D from the wild teacher: at which state, under which cameras, with what in the draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from carv_distill.carv import stream
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.variance import Estimate, MeasuredGradient, VarianceBudget, ratio
from studies.cached import compute
from studies.gradient import load_gradient, one_thread, price
from studies.intervals import least_ratio, resolved_ratio
from studies.likeness import Likeness, likeness_of_run
from studies.runs import TrainingRun, plain_name
from studies.sentences import show
from studies.study import Row, columns

CONFIG = Path("configs/wild/sds_carv.yaml")
PROMPTS = ("a torus", "a cube", "a mug")
STEPS = (50, 150, 500, 1000)
MAPPED = 150
"""Step of the map of cameras."""
Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Distance, angle of view, elevation."""
NEAR: Ranges = ((1.75, 1.75), (55, 55), (0, 30))
CAMERAS: dict[str, Ranges] = {
    "near": NEAR,
    "distance 1.6–1.9": ((1.6, 1.9), *NEAR[1:]),
    "distance 1.5–2.0": ((1.5, 2.0), *NEAR[1:]),
    "view 50–60°": (NEAR[0], (50, 60), NEAR[2]),
    "view 40–70°": (NEAR[0], (40, 70), NEAR[2]),
    "elevation 0–45°": (*NEAR[:2], (0, 45)),
    "elevation −10–60°": (*NEAR[:2], (-10, 60)),
    "elevation −10–90°": (*NEAR[:2], (-10, 90)),
    "all widest": ((1.5, 2.0), (40, 70), (-10, 90)),
}
PARTS = ("total", "within", "between", "within_level", "within_noise", "squared_norm")


@dataclass(frozen=True)
class Cell:
    """What is measured once."""

    prompt: str
    seed: int
    step: int
    augment: str = "draw"
    regularised: bool = False
    cameras: str = "near"


def training(prompt: str, seed: int, steps: int) -> TrainingRun:
    """A run whose checkpoints are measured."""
    words = (f"sds.prompt={prompt}", f"seed={seed}", f"trainer.max_steps={steps}", "checkpoint.every=50")
    quiet = ("clip.every=0", "preview.every=0", "checkpoint.keep_newest=99")
    return TrainingRun(f"{plain_name(prompt)}-seed{seed}", (*words, *quiet))


def run_of(folder: Path, cell: Cell) -> Path:
    """The run that a cell is a state of."""
    return folder / training(cell.prompt, cell.seed, 0).name


def load(folder: Path, cell: Cell) -> MeasuredGradient:
    """The gradient of a cell."""
    return load_gradient(run_of(folder, cell), cell.step, partial(_apply, cell), cell.regularised)


def _apply(cell: Cell, config: SDSConfig) -> None:
    distance, fov, elevation = CAMERAS[cell.cameras]
    config.sds.augment = cell.augment
    config.camera.distance, config.camera.fov = list(distance), list(fov)
    config.camera.elevation = list(elevation)


def measure(folder: Path, cell: Cell, renders: int) -> VarianceBudget:
    """The parts of the variance of a single draw."""
    g = load(folder, cell)
    return VarianceBudget.measure(g.pipeline, g.parameters, stream("regime", cell.step), None, renders, 4, 2)


def shapes(folder: Path, prompts: Sequence[str], seeds: Sequence[int], workers: int) -> list[Row]:
    """How like the named solid the objects of all runs are at their end."""
    runs = [(p, s, folder / training(p, s, 0).name) for p in prompts for s in seeds]
    calls = [partial(likeness_of_run, run, prompt.split()[-1]) for prompt, _, run in runs]
    found: list[Likeness] = compute(calls, folder / "cache", workers)
    return [
        {"prompt": prompt, "seed": seed, "likeness": f.iou, "by_elevation": list(f.by_row)}
        for (prompt, seed, _), f in zip(runs, found, strict=True)
    ]


def gate_cells(prompts: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> list[Cell]:
    """Every state with the three settings."""
    settings = (("draw", False), ("draw", True), ("render", False))
    return [Cell(p, s, t, *setting) for p in prompts for s in seeds for t in steps for setting in settings]


def camera_cells(prompts: Sequence[str], seed: int, step: int) -> list[Cell]:
    """Every prompt under all cameras but the near ones, which the gate has."""
    return [Cell(p, seed, step, cameras=name) for p in prompts for name in CAMERAS if name != "near"]


def measure_all(
    folder: Path, cells: Sequence[Cell], renders: int, workers: int
) -> dict[Cell, VarianceBudget]:
    """All cells, kept."""
    calls = [partial(measure, folder, cell, renders) for cell in cells]
    runs = [run_of(folder, cell) for cell in cells]
    return dict(zip(cells, compute(calls, folder / "cache", workers, runs), strict=True))


def within_over_between(b: VarianceBudget) -> Estimate | None:
    """W/B of a single draw at one state; None where B is not told from 0."""
    return ratio(b.within, b.between) if b.between.low > 0 else None


def least(b: VarianceBudget) -> float:
    """The least that W/B may be at one state: W's lower end over B's upper."""
    return least_ratio([(b.within, b.between)])


def rows_of(measured: Mapping[Cell, VarianceBudget]) -> list[Row]:
    """A row for every cell."""
    rows = []
    for cell, b in measured.items():
        found = within_over_between(b)
        row: Row = {**cell.__dict__, "at_least": least(b)}
        empty = dict.fromkeys(f"within_over_between{end}" for end in ("", "_se", "_low", "_high"))
        row |= columns("within_over_between", found) if found else empty
        for part in PARTS:
            row |= columns(part, getattr(b, part))
        rows.append(row)
    return rows


def pooled(
    measured: Mapping[Cell, VarianceBudget], prompt: str, seed: int, augment: str, regularised: bool
) -> tuple[Estimate | None, float]:
    """W/B over the states of a run, the geometric mean, errors independent, None where a B is not told from
    0; and the least that it is."""
    wanted = Cell(prompt, seed, 0, augment, regularised)
    pairs = [(b.within, b.between) for cell, b in measured.items() if replace(cell, step=0) == wanted]
    found = resolved_ratio(pairs)
    return found, found.low if found else least_ratio(pairs)


def kappa(folder: Path, cell: Cell, repeats: int) -> float:
    """c_render/c_draw at R = 1, K = 8, one thread."""
    with one_thread():
        return price(load(folder, cell), 1, 8, repeats).kappa


def verdict(
    measured: Mapping[Cell, VarianceBudget],
    prompts: Sequence[str],
    seeds: Sequence[int],
    kappas: Mapping[str, float],
) -> list[str]:
    """Whether the gate holds, run by run."""
    said = []
    for prompt in prompts:
        for seed in seeds:
            values = {
                name: pooled(measured, prompt, seed, *setting)
                for name, setting in (
                    ("per draw", ("draw", False)),
                    ("with regularisers", ("draw", True)),
                    ("per render", ("render", False)),
                )
            }
            own = [
                c
                for c in measured
                if (c.prompt, c.seed, c.augment, c.regularised, c.cameras)
                == (prompt, seed, "draw", False, "near")
            ]
            passed = sum(least(measured[c]) >= 10 for c in own)
            shown = ", ".join(
                f"{name} {show(e) if e else f'at least {low:.1f}'}" for name, (e, low) in values.items()
            )
            gate = "passes" if values["per draw"][1] >= 10 else "does not pass"
            said.append(
                f"{prompt}, seed {seed}: W/B {shown}; {passed} of {len(own)} states surely above 10; {gate}."
            )
    said.append("κ: " + ", ".join(f"{prompt} {value:.1f}" for prompt, value in kappas.items()) + ".")
    return said


def camera_rows(measured: Mapping[Cell, VarianceBudget]) -> list[str]:
    """W/B under each choice of cameras, by prompt."""
    said = []
    for cell, b in measured.items():
        found = within_over_between(b)
        shown = show(found) if found else f"at least {least(b):.1f}"
        said.append(f"{cell.prompt}, {cell.cameras}: W/B {shown}.")
    return said
