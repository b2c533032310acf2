"""The page of an object's folder: what lies there, and the run's numbers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from carv_distill.engine.metrics import read_metrics
from carv_distill.model_card import card_head, table_rows
from carv_distill.text_to_3d.options import SDSConfig

FILES = {
    "turntable.mp4": "a film, once around",
    "mesh.glb": "mesh with colours at its vertices",
    "mesh.obj": "the same",
    "textured.glb": "mesh with a texture",
    "textured.obj": "the same, with `textured.mtl` and `textured.png`",
    "scene.ply": "Gaussians, in the layout that viewers of splats read",
    "scene.safetensors": "what was learned, which `carv_distill.text_to_3d.scene_files.load_scene` reads",
}
"""Of an object's files those that someone opens, and what they are."""
_CARD = """\
{head}

# {prompt}

An object from these words, by score distillation of a diffusion model with carv-distill.

![Views around it, from 15° and from 60°](views.png)

## Files

| | |
|---|---|
{files}

## Figures

| | |
|---|---|
{rows}
"""


def object_card(config: SDSConfig, metrics: Path, step: int, files: Collection[str]) -> str:
    """What the folder's files are, the settings, and the last CLIP score until an update.

    Args:
        metrics: the run's metrics.csv.
        files: names of those that are there.
    """
    e = config.estimator
    figures: dict[str, str | float] = {
        "updates": step,
        "R": e.upstream,
        "K": e.draws,
        "strategy": e.strategy,
        "teacher": config.teacher.path,
        "seed": config.seed,
        "proposal": e.proposal,
        "noise": e.noise,
        "objective": config.sds.objective,
        "guidance": config.sds.guidance,
        "scene": config.scene.kind,
    }
    measured = [row for row in read_metrics(metrics) if "clip/score" in row and row["step"] <= step]
    if measured:
        last = measured[-1]
        setting = f"{config.clip.views} views, at update {last['step']:.0f}"
        figures["CLIP score"] = f"{last['clip/score']:.1f} ({setting})"
    return _CARD.format(
        head=card_head("text-to-3d", "sds", config.scene.kind, library=None),
        prompt=" ".join(config.sds.prompt.split()),
        files=table_rows({f"`{name}`": about for name, about in FILES.items() if name in files}),
        rows=table_rows(figures),
    )
