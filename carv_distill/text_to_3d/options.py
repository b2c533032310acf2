"""What a text-to-3D run is made of: object, views, guidance."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from carv_distill.engine.options import EstimatorOptions, PreviewOptions, RunConfig
from carv_distill.geometry.samplings import SAMPLINGS
from carv_distill.options import at_least, between, more_than, one_of, place, section

SCENES = ("voxels", "hash", "gaussians")
BACKENDS = ("auto", "torch", "gsplat")
BACKGROUNDS = ("grey", "white", "black", "random")
WEIGHTINGS = ("sds", "uniform", "fantasia3d")
COEFFICIENTS = ("one", "learned")
AUGMENTATIONS = ("none", "render", "draw")


@dataclass
class HashOptions:
    """Sizes of a multi-resolution hash grid. Instant-NGP and text-to-3D papers have 16 levels, log_size 19,
    width 64 and a finest resolution of 2048; the defaults learn on a CPU."""

    levels: int = at_least(1, 8)
    """Resolutions, in a geometric row from base_resolution to scene.resolution."""
    log_size: int = between(4, 24, 15)
    """log₂ of the entries of a level."""
    features: int = at_least(1, 2)
    """Per entry."""
    base_resolution: int = at_least(2, 16)
    """Of the coarsest level."""
    width: int = at_least(1, 32)
    """Of the network's hidden layer."""


@dataclass
class GaussianOptions:
    """3D Gaussians."""

    count: int = at_least(1, 2000)
    """How many; they stay as many."""
    backend: str = one_of(BACKENDS, "auto")
    """What splats them: torch runs anywhere; gsplat needs a CUDA device and the extra of its name; auto takes
    gsplat where it can run."""


@dataclass
class SceneOptions:
    """The scene, and how it is seen."""

    kind: str = one_of(SCENES, "voxels")
    """voxels: a dense grid over a coarser one; hash: hash grid and small network; gaussians: 3D Gaussians."""
    resolution: int = at_least(4, 40)
    """Voxels along one side (voxels), or of the finest level (hash)."""
    extent: float = more_than(0, 0.8)
    """Half the side of the cube that holds the object; for Gaussians, its mesh."""
    size: int = at_least(4, 32)
    """Pixels along one side of a render."""
    upsample: bool = False
    """Enlarge renders to the teacher's pictures; without it the two sizes must be equal."""
    samples: int = at_least(2, 40)
    """Points on each ray (voxels, hash)."""
    background: str = one_of(BACKGROUNDS, "grey")
    hash: HashOptions = field(default_factory=HashOptions)
    gaussians: GaussianOptions = field(default_factory=GaussianOptions)


@dataclass
class CameraOptions:
    """Cameras on a sphere around the object, [least, greatest]."""

    distance: list[float] = field(default_factory=lambda: [1.5, 2.0])
    fov: list[float] = field(default_factory=lambda: [40.0, 70.0])
    """Degrees over the picture's height."""
    elevation: list[float] = field(default_factory=lambda: [-10.0, 45.0])
    """Degrees."""
    sampling: str = one_of(SAMPLINGS, "iid")
    """Of a step's cameras together: stratified and antipodal spread azimuths, sobol all four; needs R > 1."""


@dataclass
class SDSOptions:
    """Score distillation sampling."""

    prompt: str = MISSING
    negative_prompt: str = ""
    view_prompts: bool = True
    """Append ", front view" and the like, as the camera stands."""
    guidance: float = at_least(0, 7.5)
    """Classifier-free guidance scale s of ε_∅ + s (ε_c − ε_∅); threestudio's is s − 1."""
    weighting: str = one_of(WEIGHTINGS, "sds")
    """w(t): sds 1 − ᾱ, uniform 1, fantasia3d √ᾱ (1 − ᾱ)."""
    t_min: float = between(0, 1, 0.02)
    """Least noise level, as a share of the timesteps."""
    t_max: float = between(0, 1, 0.98)
    t_max_end: float = between(0, 1, 0.98)
    """Greatest noise level at the last step; it falls from t_max in a straight line."""
    coefficient: str = one_of(COEFFICIENTS, "one")
    """c in ε̂ − c ε: one, or learned from past draws to lower the variance."""
    augment: str = one_of(AUGMENTATIONS, "none")
    """Random backgrounds and orders of the colours behind and of a render, for teachers of pixels that know
    objects so: none, the scene's background; new ones for every render, or for every draw, which lowers the
    variance. Text-to-3D as published has none."""
    clip_direction: float | None = more_than(0, None)
    """Greatest norm of a render's averaged direction; empty: never clip."""
    renders_at_once: int = at_least(1, 4)
    """Renders with a graph in memory; more of them go through one after the other."""
    max_skips: int = at_least(1, 20)
    """Steps in a row without a finite draw or gradient that end the run; one such step is left out. A single
    draw that is not finite is left out of its render's average."""
    density_lr: float = more_than(0, 0.08)
    """Of the density's voxels, of a hash grid with its network, or of the Gaussians' opacity logits."""
    colour_lr: float = more_than(0, 0.05)
    """Of the colour's voxels, or of the Gaussians' colour logits."""
    position_lr: float = more_than(0, 0.001)
    """Of the Gaussians' means; this and the next two as in DreamGaussian."""
    scale_lr: float = more_than(0, 0.005)
    """Of the logarithms of the Gaussians' scales."""
    rotation_lr: float = more_than(0, 0.005)
    """Of the Gaussians' quaternions."""
    sparsity: float = at_least(0, 1.0)
    """Weight of the mean over pixels of √(opacity² + 0.01)."""
    opaque: float = at_least(0, 0.0)
    """Weight of the binary entropy of the opacity."""
    smoothness: float = at_least(0, 0.0)
    """Weight of the mean squared difference of neighbouring voxels' density (voxels)."""


@dataclass
class TeacherOptions:
    """The frozen teacher of text and images."""

    path: str = place(MISSING, hub=True, content=True)
    """Folder or hub id of a text-to-image pipeline: Stable Diffusion 1 or 2, SDXL, Stable Diffusion 3, Flux,
    PixArt, or the first stage of DeepFloyd IF."""
    size: int | None = at_least(8, None)
    """Side of its pictures in pixels; empty: as it was trained."""
    guidance: float | None = at_least(0, None)
    """The scale that a guidance-distilled teacher (Flux) is told, in place of sds.guidance; empty: its
    pipeline's own."""
    precision: str = one_of(("auto", "float32", "bfloat16", "float16"), "auto")
    """Of the frozen weights but for the autoencoder's. auto: float16 on CUDA, float32 on a CPU. float32 is
    computed as trainer.precision says, which on CUDA is bfloat16 by default; the others as they are, at half
    the memory. At guidance 100 bfloat16 is 9–13 % off per draw, of which 3 % does not average away over
    draws, float16 1–2 %. float16 has a small range: a teacher that was trained in bfloat16 may leave it, and
    the run then says so."""


@dataclass
class ClipOptions:
    """The trace of the CLIP score."""

    every: int = at_least(0, 50)
    """Steps between two measurements; 0 turns it off."""
    model: str = place("checkpoints/shapes-teacher/clip", hub=True)
    """Folder or hub id of a CLIPModel with its processor."""
    views: int = at_least(2, 12)
    """Cameras once around the object."""


@dataclass
class ExportOptions:
    """What is made of the finished object."""

    frames: int = at_least(8, 60)
    """Of the turntable."""
    size: int = at_least(16, 128)
    """Its pixels along one side."""
    mesh: int = at_least(8, 96)
    """Points of the mesh's grid along one side."""


@dataclass
class SDSConfig(RunConfig):
    """Text-to-3D by score distillation."""

    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    scene: SceneOptions = field(default_factory=SceneOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    sds: SDSOptions = field(default_factory=SDSOptions)
    clip: ClipOptions = section(ClipOptions, resume=True)
    preview: PreviewOptions = section(PreviewOptions, resume=True)
    export: ExportOptions = section(ExportOptions, resume=True)
