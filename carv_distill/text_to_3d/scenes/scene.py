"""What a scene is: points → density and colour, and pictures of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.rendering import (
    MARCH_BYTES,
    Field,
    Lights,
    Normals,
    OccupancyGrid,
    Rendered,
    march,
)
from carv_distill.text_to_3d.rendering import normals as surface_normals

BLOB = 10.0
RADIUS = 0.5


class Scene(nn.Module):
    """What is where, and how it is seen.

    ``scene(points [n, 3]) → (density [n] per unit length, colour [n, 3] in (0, 1))`` in the cube
    [−extent, extent]³; a mesh is made from it. Pictures come from rays marched through it, unless a scene has
    a renderer of its own.
    """

    def __init__(self, extent: float) -> None:
        super().__init__()
        self.extent = extent

    def render(
        self,
        cameras: Cameras,
        size: int,
        samples: int,
        generator: torch.Generator | None = None,
        background: str = "grey",
        rows: int | None = None,
        lights: Lights | None = None,
        occupied: OccupancyGrid | None = None,
    ) -> Rendered:
        """Pictures of `size` × `size` pixels, by `samples` points on each ray; see
        :func:`~carv_distill.text_to_3d.rendering.march`.

        Args:
            occupied: cells in which it is asked; None is all of the cube.
        """
        field: Field = self
        normals: Normals = self.normals
        if occupied is not None:
            field, normals = occupied.field(field), occupied.normals(normals)
        return march(field, self.extent, cameras, size, samples, generator, background, rows, lights, normals)

    def at_step(self, step: int) -> None:
        """Makes it what it is at a step of training; what it learned stays."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which no parameter changes and at most one backward pass goes through it: what calls
        make of the parameters alone is made once."""
        yield

    def density_at(self, points: Tensor) -> Tensor:
        """Its density alone, [n, 3] → [n]."""
        return self(points)[0]

    def normals(self, points: Tensor) -> Tensor:
        """Of its surfaces, [n, 3]; see :func:`~carv_distill.text_to_3d.rendering.normals`."""
        return surface_normals(self.density_at, points, self.normal_step)

    @property
    def normal_step(self) -> float:
        """Over which differences of the density make a normal; threestudio has a hundredth, too."""
        return self.extent / 100

    @property
    def finest(self) -> float:
        """Side of the smallest cells of its grid; 0 where it has none."""
        return 0.0

    @property
    def held_bytes(self) -> int:
        """That a call without a graph holds in float32, whatever the points."""
        return 0

    @property
    def point_bytes(self) -> int:
        """The most that it holds of each point besides."""
        raise TypeError(f"{type(self).__name__} does not say what memory it takes")

    def picture_bytes(self, size: int, samples: int) -> tuple[int, int]:
        """The most that :meth:`render` of one camera holds without a graph in float32: of all of the picture
        and of each row that is rendered at once."""
        during, after = MARCH_BYTES
        return self.held_bytes, size * samples * max(during + self.point_bytes, after)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        """Parameters and learning rates for an optimiser."""
        raise TypeError(f"{type(self).__name__} does not say how fast it learns")

    def roughness(self) -> Tensor:
        """A scalar that grows with speckle in the density; 0 where a scene has no such measure."""
        return torch.zeros(())

    def colour_roughness(self) -> Tensor:
        """The same of the colours."""
        return torch.zeros(())

    def metrics(self) -> dict[str, Tensor]:
        """What its own kind adds to the log of a step."""
        return {}


def blob(points: Tensor) -> Tensor:
    """λ (1 − ‖p‖/c), the raw density that a field starts from: an object in the middle, [n].

    Source: DreamFusion (arXiv 2209.14988), appendix A.2.
    """
    return BLOB * (1 - points.norm(dim=-1) / RADIUS)
