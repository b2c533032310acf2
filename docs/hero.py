"""The picture at the head of the README, from what its commands leave:

python docs/hero.py --student runs/dmd_fashion_carv/student --object runs/sds_carv --object runs/torus \
    --influence runs/influence-checkpoints-digits-teacher-of-digits

the last one by
``evaluate.py influence --teacher checkpoints/digits-teacher --data digits --queries data:3,5,6,8``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import SubFigure
from torch import Tensor
from torchvision.utils import make_grid

from carv_distill.data.digits import load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.figures import new_figure, save_figure
from carv_distill.files import read_json
from carv_distill.text_to_3d.object.turntable import pictures, turntable
from carv_distill.text_to_3d.scene_files import load_scene

COLUMNS, ROWS = 5, 4
TOP = 4


def main() -> None:
    """Writes docs/hero.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--object", type=Path, action="append", required=True)
    parser.add_argument("--influence", type=Path, required=True)
    o = parser.parse_args()
    figure = new_figure(3.45, 12)
    left, middle, right = figure.subfigures(1, 3, squeeze=False, width_ratios=[1.0, 1.35, 1.25])[0]
    show(left, student(o.student), "A one-step student", "Fashion-MNIST, 1 network call instead of 35")
    names = [load_scene(run / "object")[2] for run in o.object]
    show(middle, objects(o.object), "3D objects from prompts", f"{', '.join(names)}: from 15°, from 60°")
    show(
        right,
        ranked(o.influence),
        "Training samples that shaped one",
        "left: the query; right: the four that count most",
    )
    save_figure(figure, Path(__file__).with_name("hero.png"))


def show(figure: SubFigure, grid: Tensor, title: str, below: str) -> None:
    """A grid [3, H, W] in [−1, 1] with a title above and words below."""
    axes = figure.subplots()
    axes.set_anchor("N")
    axes.imshow(to_uint8(grid).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(below, fontsize=9)


def student(folder: Path) -> Tensor:
    """The ten classes, each twice."""
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    labels = (torch.arange(COLUMNS * ROWS) % 10).tolist()
    x = pipeline(class_labels=labels, generator=torch.Generator().manual_seed(0), output_type="raw").images
    return make_grid(x, nrow=COLUMNS, padding=1, pad_value=1.0)


def objects(runs: list[Path]) -> Tensor:
    """A column for each, from 15° and from 60°, on white."""
    seen = []
    for elevation in (15.0, 60.0):
        for run in runs:
            scene, view, _ = load_scene(run / "object")
            cameras = turntable(8, elevation)[1:2]
            seen.append(2 * pictures(scene, cameras, 128, 2 * view.samples, "white") - 1)
    return make_grid(torch.cat(seen), nrow=len(runs), padding=0)


def ranked(folder: Path) -> Tensor:
    """A row for each of the first queries: itself, a gap, then its first training samples."""
    images = load_digits_images().images
    rows = []
    for query in read_json(folder / "influence.json")["queries"][:ROWS]:
        numbers = [query["number"], *(each["train"] for each in query["top"][:TOP])]
        first, *others = images[torch.tensor(numbers)]
        rows += [first, torch.ones_like(first), *others]
    return make_grid(torch.stack(rows), nrow=TOP + 2, padding=1, pad_value=1.0)


if __name__ == "__main__":
    main()
