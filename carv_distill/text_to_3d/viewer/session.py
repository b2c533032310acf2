"""A run in a window: what is new in its folder is shown."""

from __future__ import annotations

import logging
from pathlib import Path

from carv_distill.errors import UserError
from carv_distill.text_to_3d.cameras import latest_cameras
from carv_distill.text_to_3d.options import SHOWN, SDSConfig
from carv_distill.text_to_3d.rendering import SHADES
from carv_distill.text_to_3d.scenes import GaussianScene

from .pictures import FieldPainter
from .states import Newest, State
from .window import FIELD, SPLATS, Window

log = logging.getLogger(__name__)

CAMERAS = 16
"""That are drawn, at least."""


class Session:
    """Shows a run until it is closed.

    Args:
        size: rows of a field's picture at rest, at most.

    Raises:
        UserError: its newest checkpoint cannot be read, or another program took the port.
    """

    def __init__(self, run: Path, config: SDSConfig, device: str, host: str, port: int, size: int) -> None:
        self.config, self.device = config, device
        self.newest = Newest(run, config, device)
        self.state = self.newest.state()
        behind = config.export.background or config.scene.background
        self.shade = SHADES[behind if behind in SHOWN else "grey"]
        first = SPLATS if config.scene.kind == "gaussians" else FIELD
        self.window = Window(host, port, run.resolve().name, config.sds.prompt, first, size, self.shade)

    def begin(self) -> None:
        """Shows what there is already; apart from the window, which is to be closed if this fails."""
        if self.state is not None:
            self._show(self.state)
        self._look_beside()

    def look(self) -> None:
        """Shows what is new."""
        try:
            newer = self.newest.state()
        except UserError as error:
            log.warning("%s", error)
            newer = None
        if newer is not None:
            self.state = newer
            self._show(newer)
        self._look_beside()
        self.window.check()

    def close(self) -> None:
        """Ends the window."""
        self.window.close()

    def _show(self, state: State) -> None:
        scene, config = state.scene, self.config
        if isinstance(scene, GaussianScene):
            self.window.show_splats(scene.gaussians)
        else:
            self.window.show_field(FieldPainter(scene, config.scene, self.shade, config.export.memory))
        self.window.show_cameras(latest_cameras(config, state.step, CAMERAS, self.device))
        log.info("update %d of %d", state.step, config.trainer.max_steps)

    def _look_beside(self) -> None:
        if (mesh := self.newest.mesh()) is not None:
            self.window.show_mesh(mesh)
        self.window.say(self.newest.facts(self.state))
