"""The viewer's window in the browser, by viser: what it shows, and its panel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import rich
import viser
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.figures import BLUE, ORANGE
from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.object.turntable import turntable
from carv_distill.text_to_3d.rendering import Gaussians, rotations

from .cameras import BrowserCamera, frusta
from .pictures import FieldPainter, Picture
from .spectators import Spectator, Spectators
from .states import Facts

FRUSTUM, THICKNESS = 0.12, 0.006
"""Depth of a camera's frustum, and of its lines."""
DISTANCE, ELEVATION = 2.5, 35.0
"""Of the camera that one begins with: from the middle, and in degrees, so that its top is seen too."""
FIELD, SPLATS, MESH = "field", "splats", "mesh"


class Window:
    """Shows a scene to everyone who connects, until it is closed.

    A field is painted here for each browser's camera, as the background of viser's own scene; Gaussians, a
    mesh and cameras are drawn by the browser itself.

    Args:
        first: FIELD or SPLATS, whatever the scene is.
        greatest: rows of a picture at rest.
        shade: of the background, in [0, 1].

    Raises:
        UserError: the port is taken.
    """

    def __init__(
        self, host: str, port: int, label: str, prompt: str, first: str, greatest: int, shade: float
    ) -> None:
        self.first, self.greatest, self.shade = first, greatest, shade
        rich.get_console().quiet = True  # viser's own words are printed there; ours are not
        self.server = viser.ViserServer(host, port, label=label, verbose=False)
        if self.server.get_port() != port:  # viser goes on to the next one that is free
            self.server.stop()
            raise UserError(f"--port: {port} was taken by another program at this moment; try again")
        self._painter: FieldPainter | None = None
        self._splats: viser.GaussianSplatHandle | None = None
        self._mesh: viser.GlbHandle | None = None
        self._set_up_scene()
        self._set_up_panel(prompt)
        # last: who is not given a window cannot close it, and its thread would stay
        self._spectators = Spectators()
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(lambda client: self._spectators.left(client.client_id))

    def _set_up_scene(self) -> None:
        scene, start = self.server.scene, self.server.initial_camera
        scene.set_up_direction("+y")
        (above,) = frusta(turntable(1, ELEVATION, DISTANCE))
        start.position, start.look_at, start.fov = above.position, (0.0, 0.0, 0.0), above.fov
        self._clear()

    def _set_up_panel(self, prompt: str) -> None:
        gui = self.server.gui
        gui.configure_theme(control_layout="collapsible", show_logo=False, show_share_button=False)
        # Text throughout: viser's Markdown may hold code, and a prompt comes from outside.
        gui.add_text("prompt", prompt, disabled=True, multiline=len(prompt) > 30)
        self._update = gui.add_text("update", "", disabled=True)
        self._score = gui.add_text("CLIP score", "", disabled=True)
        self._activity = gui.add_text("the run", "", disabled=True)
        self._shown = gui.add_dropdown("show", [self.first], initial_value=self.first, visible=False)
        self._cameras = gui.add_checkbox(
            "cameras", False, hint="of the latest renders; orange: the last step's"
        )
        self._frusta = self.server.scene.add_frame("/cameras", show_axes=False, visible=False)
        self._shown.on_update(lambda _: self._refresh())
        self._cameras.on_update(lambda _: self._refresh())

    def show_field(self, painter: FieldPainter) -> None:
        """A field, in the place of what was there before."""
        self._painter = painter
        self._refresh()

    def show_splats(self, gaussians: Gaussians) -> None:
        """Gaussians, in the place of what was there before."""
        values = {name: value.detach().float().cpu().numpy() for name, value in splats(gaussians).items()}
        seen = self._shown.value == SPLATS
        self._splats = self.server.scene.add_gaussian_splats("/splats", visible=seen, **values)

    def show_mesh(self, glb: bytes) -> None:
        """A mesh, to switch to."""
        self._mesh = self.server.scene.add_glb("/mesh", glb, visible=self._shown.value == MESH)
        self._shown.options = (self.first, MESH)
        self._shown.visible = True

    def show_cameras(self, steps: Sequence[Cameras]) -> None:
        """Cameras of the latest steps, the newest first, in the place of others."""
        self._frusta.remove()
        self._frusta = self.server.scene.add_frame("/cameras", show_axes=False, visible=self._cameras.value)
        drawn = [(age, frustum) for age, step in enumerate(steps) for frustum in frusta(step)]
        for number, (age, frustum) in enumerate(drawn):
            self.server.scene.add_camera_frustum(
                f"/cameras/{number}",
                fov=frustum.fov,
                aspect=1.0,
                scale=FRUSTUM,
                thickness=THICKNESS,
                color=_rgb(BLUE if age else ORANGE),
                wxyz=frustum.wxyz,
                position=frustum.position,
                cast_shadow=False,
                receive_shadow=False,
            )

    def say(self, facts: Facts) -> None:
        """What the panel says."""
        self._update.value, self._score.value = facts.update, facts.score
        self._activity.value = facts.activity

    def check(self) -> None:
        """Raises what has ended the painting."""
        self._spectators.check()

    def close(self) -> None:
        """Ends the painting and the server."""
        self._spectators.close()
        self.server.stop()

    def _refresh(self) -> None:
        """Makes visible what is chosen, and has the field painted anew where that is it."""
        chosen = self._shown.value
        if self._splats is not None:
            self._splats.visible = chosen == SPLATS
        if self._mesh is not None:
            self._mesh.visible = chosen == MESH
        self._frusta.visible = self._cameras.value
        self._spectators.show(self._painter if chosen == FIELD else None)
        if chosen != FIELD:
            self._clear()

    def _clear(self) -> None:
        """The background alone, for everyone who is and will be here."""
        plain = np.full((1, 1, 3), round(255 * self.shade), np.uint8)
        for scene in (self.server.scene, *(client.scene for client in self.server.get_clients().values())):
            scene.set_background_image(plain, format="png")

    def _connected(self, client: viser.ClientHandle) -> None:
        self._moved(client.camera)
        client.camera.on_update(self._moved)

    def _moved(self, handle: viser.CameraHandle) -> None:
        camera = BrowserCamera.of(handle.wxyz, handle.position, handle.fov, handle.aspect)
        scene = handle.client.scene

        def send(picture: Picture) -> None:
            depth = picture.depth if self._cameras.value else None
            scene.set_background_image(picture.pixels, format="png", depth=depth)

        greatest = min(self.greatest, handle.image_height)
        self._spectators.moved(handle.client.client_id, Spectator(camera, greatest, send))


def splats(gaussians: Gaussians) -> dict[str, Tensor]:
    """As viser takes them: centres, covariances Σ = R S S Rᵀ, colours in [0, 1], opacities [N, 1]."""
    g = gaussians
    root = rotations(g.quaternions) * g.scales[:, None, :]
    return {
        "centers": g.means,
        "covariances": root @ root.mT,
        "rgbs": g.colour,
        "opacities": g.opacity[:, None],
    }


def _rgb(colour: str) -> tuple[int, int, int]:
    """Of a #rrggbb."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
