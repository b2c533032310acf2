"""Options of how a scene is rendered in training."""

from __future__ import annotations

from dataclasses import dataclass, field

from carv_distill.options import at_least, between, more_than


@dataclass
class ShadingOptions:
    """Light on fields (voxels, hash). A render shows colours as they are (albedo), or is lit by a point light
    near the camera, which is drawn with it."""

    textureless: float = between(0, 1, 0.0)
    """Share of the renders that are lit and white; threestudio's 0.375."""
    lambertian: float = between(0, 1, 0.0)
    """Share of those that are lit, in colours; threestudio's 0.375."""
    from_step: int = at_least(0, 0)
    """Before it all are albedo; 2000 in threestudio's DreamFusion configuration."""
    ambient: float = between(0, 1, 0.1)
    """Share of light that comes from everywhere; the rest is reflected as surfaces face the point light."""
    distance: list[float] = field(default_factory=lambda: [0.8, 1.5])
    """Of the light from the middle, [least, greatest]."""
    noise: float = at_least(0, 1.0)
    """Standard deviation along each axis of the point in whose direction it stands, around the camera."""

    @property
    def shaded(self) -> float:
        """Share of the renders that are lit."""
        return self.textureless + self.lambertian


@dataclass
class BackgroundOptions:
    """The network of scene.background: learned, whose rate is sds.background_lr; exports have none of it."""

    width: int = at_least(1, 16)
    """Of its two hidden layers."""
    frequencies: int = between(0, 10, 3)
    """Of sines and cosines of a ray's direction, each twice the one before."""
    flat: float = between(0, 1, 0.5)
    """Share of the renders with one random colour in its place; threestudio's random_aug_prob."""


@dataclass
class OccupancyOptions:
    """A grid of the empty space that training's renders skip (voxels, hash); traces skip none, and the film
    of an export what no pixel shows."""

    resolution: int = between(0, 256, 0)
    """Cells along one side; 0 turns it off. nerfacc's 32 to 128."""
    every: int = at_least(1, 16)
    """Steps between two looks into all cells."""
    threshold: float = more_than(0, 0.01)
    """Greatest density of empty space, per unit of length: a ray of the length 2 through it loses 2 % of its
    light to it."""
    decay: float = between(0, 1, 0.95)
    """Of a cell's greatest density from look to look."""
