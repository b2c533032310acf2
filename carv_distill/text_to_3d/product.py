"""The object of a run: what is made of its scene, without the teacher."""

from __future__ import annotations

import logging
from pathlib import Path

from carv_distill.engine.folder import METRICS, write_summary
from carv_distill.files import read_json, write_text
from carv_distill.model_card import CARD

from .object.card import object_card
from .object.memory import check_memory
from .object.mesh_files import write_mesh
from .object.turntable import write_turntable
from .options import SDSConfig
from .rendering import choose_backend
from .scene_files import save_scene
from .scenes import Scene
from .states import state_at

log = logging.getLogger(__name__)


def remake(config: SDSConfig, run: Path, device: str, step: int | None) -> int:
    """Makes the object anew from the checkpoint of an update (None: the newest), with its pictures and its
    mesh, so that all is of one; the update.

    Raises:
        UserError: there is no such checkpoint, it takes more than export.memory, or what splats its Gaussians
            is not here; nothing was changed.
    """
    if config.scene.kind == "gaussians":
        choose_backend(config.scene.gaussians.backend, device)
    state = state_at(run, config, device, step)
    check_export(config, state.scene)
    save_scene(run / "object", state.scene, config.scene, config.sds.prompt, state.step)
    write_summary(run, state.step)
    finish(config, state.scene, run)
    return state.step


def check_export(config: SDSConfig, scene: Scene) -> None:
    """UserError for a scene whose pictures or mesh take more than export.memory."""
    check_memory(config.export, scene, 2 * config.scene.samples)


def finish(config: SDSConfig, scene: Scene, run: Path) -> None:
    """Mesh, turntable and sheet of views of a scene that is kept, then the page that says what there is.

    Raises:
        UserError: they take more than export.memory.
    """
    o, product = config.export, run / "object"
    check_export(config, scene)
    log.info("the mesh of %s, then its film of %d frames and its views …", product, o.frames)
    write_mesh(product, scene, o)
    write_turntable(product, scene, config.scene, o.frames, o.size, o.background, o.memory)
    step = int(read_json(product / "scene.json")["step"])
    files = [path.name for path in product.iterdir()]
    write_text(product / CARD, object_card(config, run / METRICS, step, files))
