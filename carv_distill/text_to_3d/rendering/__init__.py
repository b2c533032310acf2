"""Pictures: of fields by quadrature along rays, of 3D Gaussians by splatting."""

from .background import BackgroundNetwork
from .gaussians import ALPHA_MAX, Footprints, Gaussians, project, rotations
from .marching import MARCH_BYTES, Field, Normals, march, march_rays
from .occupancy import AT_ONCE, CELL_BYTES, OccupancyGrid
from .rendered import SHADES, Rendered, Splats, background_colours, over
from .shading import Lights, albedo, draw_lights, normals
from .splatting import TILE, choose_backend, gsplat_fault, splat

__all__ = [
    "ALPHA_MAX",
    "AT_ONCE",
    "CELL_BYTES",
    "MARCH_BYTES",
    "SHADES",
    "TILE",
    "BackgroundNetwork",
    "Field",
    "Footprints",
    "Gaussians",
    "Lights",
    "Normals",
    "OccupancyGrid",
    "Rendered",
    "Splats",
    "albedo",
    "background_colours",
    "choose_backend",
    "draw_lights",
    "gsplat_fault",
    "march",
    "march_rays",
    "normals",
    "over",
    "project",
    "rotations",
    "splat",
]
