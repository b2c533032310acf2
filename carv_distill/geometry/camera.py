"""Cameras on a sphere around the origin: where they stand, what they see, how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv.sobol import shifted_sobol

from .samplings import SAMPLINGS

VIEWS = ("front", "side", "back", "overhead")
OVERHEAD = math.radians(60)
"""Elevation from which on a view is from overhead (DreamFusion, section 3.2)."""
ALL_ROWS = slice(None)


@dataclass(frozen=True)
class Cameras:
    """n pinhole cameras; y is up, azimuth 0 stands on +z and grows towards +x.

    They look at the origin, unless `offset` moves them off the sphere, or they look at another centre, or
    tilt: [n, 3] each; azimuth and elevation, and with them the view's name, are those on the sphere.
    """

    azimuth: Tensor
    elevation: Tensor
    """[n], radians."""
    distance: Tensor
    """[n], of the sphere they stand on, around the origin."""
    fov: Tensor
    """[n], full angle of view over the image's height, radians."""
    offset: Tensor | None = None
    """[n, 3], from the place on the sphere to where a camera stands."""
    centre: Tensor | None = None
    """[n, 3], what a camera looks at."""
    tilt: Tensor | None = None
    """[n, 3], added to the unit vector to the picture's top that it has on the sphere."""

    def __len__(self) -> int:
        return len(self.azimuth)

    def __getitem__(self, part: slice) -> Cameras:
        """Some of them."""
        return self._each(lambda t: t[part])

    def to(self, device: torch.device | str | Tensor) -> Cameras:
        """The same cameras on another device; or on the device of a tensor, and of its type."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cameras:
        given = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return Cameras(**{name: change(value) for name, value in given.items() if value is not None})

    @property
    def position(self) -> Tensor:
        """Where they stand, [n, 3]."""
        place = self._on_sphere
        return place if self.offset is None else place + self.offset

    @property
    def _on_sphere(self) -> Tensor:
        flat = self.elevation.cos()
        unit = torch.stack([flat * self.azimuth.sin(), self.elevation.sin(), flat * self.azimuth.cos()], -1)
        return self.distance[:, None] * unit

    @property
    def range(self) -> Tensor:
        """How far from the origin they stand, [n]."""
        return self.distance if self.offset is None else self.position.norm(dim=1)

    @property
    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors to the picture's right, to its top, and from what is looked at to the camera, each
        [n, 3]."""
        back = self._on_sphere / self.distance[:, None]
        # The horizontal direction of azimuth itself: no cross product that fails straight overhead.
        right = torch.stack([self.azimuth.cos(), torch.zeros_like(self.azimuth), -self.azimuth.sin()], -1)
        up = torch.linalg.cross(back, right)
        if self.offset is None and self.centre is None and self.tilt is None:
            return right, up, back
        back = F.normalize(self.position if self.centre is None else self.position - self.centre, dim=-1)
        right = F.normalize(torch.linalg.cross(up if self.tilt is None else up + self.tilt, back), dim=-1)
        return right, torch.linalg.cross(back, right), back

    def view_matrices(self) -> Tensor:
        """World to camera in OpenCV's axes (x right, y down, z forward), [n, 4, 4]:

            p_camera = W (p − position),    W = [right; −up; −back],

        which is W p + (0, 0, distance) where the camera looks at the origin.
        """
        right, up, back = self.axes
        matrices = torch.eye(4, device=back.device, dtype=back.dtype).repeat(len(self), 1, 1)
        matrices[:, :3, :3] = torch.stack([right, -up, -back], 1)
        if self.offset is None and self.centre is None:
            matrices[:, 2, 3] = self.distance
        else:
            matrices[:, :3, 3] = -(matrices[:, :3, :3] @ self.position[..., None])[..., 0]
        return matrices

    def intrinsics(self, size: int) -> Tensor:
        """Camera to pixels of a size × size picture, [n, 3, 3]:

            column = f x/z + size/2,    row = f y/z + size/2,    f = size / (2 tan(fov/2)),

        with pixel centres at half-integers, as in :meth:`rays`.
        """
        matrices = torch.eye(3, device=self.fov.device, dtype=self.fov.dtype).repeat(len(self), 1, 1)
        matrices[:, 0, 0] = matrices[:, 1, 1] = size / (2 * (self.fov / 2).tan())
        matrices[:, :2, 2] = size / 2
        return matrices

    def rays(self, size: int, rows: slice = ALL_ROWS) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through the centres of size × size pixels, each [n, size, size, 3], or
        of some rows of them.

        Row 0 is the top of the image, column 0 its left.
        """
        right, up, back = self.axes
        place = (torch.arange(size, device=back.device, dtype=back.dtype) + 0.5) / size * 2 - 1
        reach = (self.fov / 2).tan()[:, None, None, None]
        x, y = place[None, None, :, None], -place[None, rows, None, None]
        directions = reach * (x * right[:, None, None] + y * up[:, None, None]) - back[:, None, None]
        directions = F.normalize(directions, dim=-1)
        return self.position[:, None, None].expand_as(directions), directions

    def view_index(self) -> Tensor:
        """The place in VIEWS of each camera's view, [n], without waiting for the device."""
        turned = torch.remainder(self.azimuth + math.pi, 2 * math.pi) - math.pi
        quarter = math.pi / 4
        around = (turned.abs() >= quarter).long() + (turned.abs() > 3 * quarter).long()
        return torch.where(self.elevation > OVERHEAD, VIEWS.index("overhead"), around)

    def views(self) -> list[str]:
        """The name of each view, one of VIEWS: the words that view-dependent prompts append."""
        return [VIEWS[i] for i in self.view_index().tolist()]


@dataclass(frozen=True)
class CameraSampler:
    """Random cameras: azimuth uniform, distance and angle of view uniform in their ranges, elevation for
    half of the cameras uniform in the angle and for the other half uniform on the sphere.

    Args:
        distance: least and greatest.
        fov, elevation: least and greatest, degrees.
        sampling: of n cameras together. iid; stratified, one azimuth in each of n equal sectors; antipodal,
            pairs of azimuths from opposite sides; sobol, azimuth, elevation, distance and angle of view
            by shifted Sobol points, best at powers of two. Means over the cameras are unbiased under all.
        position_noise: a camera stands off the sphere by as much at most along each axis, uniform.
        centre_noise, up_noise: standard deviations of what it looks at around the origin, and of what is
            added to the unit vector to its top, along each axis, normal.

    Source: DreamFusion (arXiv 2209.14988), section 3.2; the elevation's mixture, and the three noises (there
    camera_perturb, center_perturb and up_perturb), as in threestudio.
    """

    distance: tuple[float, float] = (1.5, 2.0)
    fov: tuple[float, float] = (40.0, 70.0)
    elevation: tuple[float, float] = (-10.0, 45.0)
    sampling: str = "iid"
    position_noise: float = 0.0
    centre_noise: float = 0.0
    up_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; found {self.sampling!r}")
        for name in ("distance", "fov", "elevation"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: {low} is above {high}")

    def sample(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Cameras:
        """`count` cameras on the generator's device."""

        def rand(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)

        if self.sampling == "sobol":
            # As many digits as tell the points apart: their further ones are independent.
            digits = max((count - 1).bit_length(), 1)
            points = shifted_sobol(rand(count, 5), generator, digits=digits)
            turn, angle, distance, fov, coin = points.unbind(1)
            height = angle  # only one of the two is used
        else:
            angle, height, coin, fov, turn, distance = (rand(count) for _ in range(6))
        low, high = (math.radians(e) for e in self.elevation)
        by_angle = _between(low, high, angle)
        on_sphere = _between(math.sin(low), math.sin(high), height).asin()

        def normal(deviation: float) -> Tensor | None:
            if not deviation:
                return None
            return deviation * torch.randn(
                count, 3, generator=generator, device=generator.device, dtype=dtype
            )

        most = self.position_noise
        return Cameras(
            2 * math.pi * self._turns(turn),
            torch.where(coin < 0.5, by_angle, on_sphere),
            _between(*self.distance, distance),
            _between(math.radians(self.fov[0]), math.radians(self.fov[1]), fov),
            _between(-most, most, rand(count, 3)) if most else None,
            normal(self.centre_noise),
            normal(self.up_noise),
        )

    def _turns(self, v: Tensor) -> Tensor:
        """Azimuths in turns from v [n]; the batch together is uniform under all samplings."""
        place = torch.arange(len(v), device=v.device)
        if self.sampling == "stratified":
            return (place + v) / len(v)
        if self.sampling == "antipodal":
            return (v[place // 2 * 2] + 0.5 * (place % 2)) % 1
        return v


def _between(low: float, high: float, v: Tensor) -> Tensor:
    return low + (high - low) * v
