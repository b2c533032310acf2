"""Objects from prompts by the default configuration: how like the named solid, how hazy, and their meshes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from carv_distill.data.solids import combinations, object_prompt
from carv_distill.figures import new_figure
from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.scene_files import load_scene
from studies.cached import compute
from studies.likeness import DISTANCE, ELEVATIONS, FOV, SAMPLES, likeness_of_run, standard_views
from studies.runs import TrainingRun, plain_name, train_all
from studies.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = Path("configs/sds_carv.yaml")
PAIRS = (
    ("yellow", "torus"),
    ("red", "ball"),
    ("orange", "octahedron"),
    ("cyan", "cone"),
    ("blue", "cube"),
    ("white", "cylinder"),
    ("green", "cube"),
    ("red", "torus"),
    ("orange", "capsule"),
    ("blue", "snowman"),
    ("purple", "octahedron"),
    ("white", "cone"),
)
"""Colour and solid; the first six were held out from the teacher."""
EULER = {"torus": 0}
"""Euler number of a surface; 2 of the others."""
WANTED = 0.85
HAZE = (0.02, 0.5)
"""Opacities that are neither empty nor object."""
VIEWS = 4
"""Around, in the picture."""


@dataclass(frozen=True)
class Object:
    """What was found of one."""

    iou: float
    """Mean intersection over union of outlines, best pose (`studies/likeness.py`)."""
    iou_15: float
    iou_60: float
    haze: float
    """Share of the standard views' pixels that are haze."""
    bodies: int
    euler: int
    watertight: bool


def run_of(colour: str, solid: str, seed: int, updates: int | None) -> TrainingRun:
    """One training with the default configuration."""
    prompt = object_prompt(colour, solid)
    words = (f"sds.prompt={prompt}", f"seed={seed}", "preview.every=0", "export.frames=8", "export.texture=0")
    ends = () if updates is None else (f"trainer.max_steps={updates}",)
    return TrainingRun(f"{plain_name(prompt)}-seed{seed}", (*words, *ends))


def train(
    folder: Path, pairs: Sequence[tuple[str, str]], seed: int, updates: int | None, workers: int
) -> None:
    """All of them; finished ones stay."""
    train_all([run_of(*pair, seed, updates) for pair in pairs], CONFIG, folder, workers)


def measure(run: Path, solid: str) -> Object:
    """Of a finished run."""
    import trimesh

    found = likeness_of_run(run, solid)
    scene, _, _ = load_scene(run / "object")
    views = standard_views()
    with torch.no_grad():
        opacity = torch.cat([scene.render(views[i : i + 1], 64, SAMPLES).opacity for i in range(len(views))])
    haze = float(((opacity > HAZE[0]) & (opacity < HAZE[1])).double().mean())
    mesh = trimesh.load_mesh(run / "object/mesh.glb")
    mesh.merge_vertices()
    whole = int(mesh.body_count), int(mesh.euler_number), bool(mesh.is_watertight)
    low, high = found.by_row
    return Object(found.iou, low, high, haze, *whole)


def measure_all(
    folder: Path, pairs: Sequence[tuple[str, str]], seed: int, updates: int | None, workers: int
) -> list[Row]:
    """A row for each."""
    runs = [folder / run_of(*pair, seed, updates).name for pair in pairs]
    calls = [partial(measure, run, solid) for run, (_, solid) in zip(runs, pairs, strict=True)]
    unseen = combinations(held_out=True)
    return [
        {"prompt": object_prompt(*pair), "held_out": pair in unseen, **asdict(found)}
        for pair, found in zip(pairs, compute(calls, folder / "cache", workers), strict=True)
    ]


def verdict(rows: Sequence[Row]) -> list[str]:
    """How many are like what they should be, and what the meshes are."""
    like = sum(row["iou"] >= WANTED for row in rows)
    least = min(rows, key=lambda row: row["iou"])
    solid = [row["prompt"].split()[-1] for row in rows]
    euler = sum(row["euler"] == EULER.get(s, 2) for row, s in zip(rows, solid, strict=True))
    one = sum(row["bodies"] == 1 for row in rows)
    said = f"Outlines overlap by {WANTED} or more on {like} of {len(rows)}; least "
    return [
        f"{said}{least['prompt']}, {least['iou']:.3f}.",
        f"Haze on at most {max(row['haze'] for row in rows):.1%} of an object's pictures.",
        f"One body on {one} of {len(rows)}, the solid's Euler number on {euler}.",
    ]


@torch.no_grad()
def strip(run: Path, background: str) -> Tensor:
    """An object from around, at 15° and then at 60°, [64, 2 · VIEWS · 64, 3]."""
    scene, _, _ = load_scene(run / "object")
    pictures = []
    for elevation in ELEVATIONS:
        for number in range(VIEWS):
            place = number * 2 * math.pi / VIEWS, math.radians(elevation), DISTANCE, math.radians(FOV)
            camera = Cameras(*(torch.tensor([value]) for value in place))
            pictures.append(scene.render(camera, 64, SAMPLES, background=background).image[0])
    return torch.cat(pictures, 2).clamp(0, 1).permute(1, 2, 0)


def draw(folder: Path, rows: Sequence[Row], names: Sequence[str], background: str) -> Figure:
    """A row of views for each; * were held out from the teacher."""
    return sheet(rows, [strip(folder / name, background) for name in names])


def sheet(rows: Sequence[Row], pictures: Sequence[Tensor], title: str | None = None) -> Figure:
    """A picture [h, w, 3] for each object, with its prompt and how like the solid it is."""
    figure = new_figure(0.75 * len(rows))
    if title is not None:
        figure.suptitle(title, fontsize=8)
    for axes, row, picture in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, pictures, strict=True
    ):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        mark = " *" if row["held_out"] else ""
        axes.set_ylabel(
            f"{row['prompt']}{mark}\n{row['iou']:.2f}", rotation=0, ha="right", va="center", fontsize=7
        )
    return figure
