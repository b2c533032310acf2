"""What a text-to-3D run is made of: object, views, guidance."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from carv_distill.engine.options import EstimatorOptions, PreviewOptions, RunConfig
from carv_distill.geometry.samplings import SAMPLINGS
from carv_distill.options import (
    Schedule,
    Stages,
    at_least,
    between,
    more_than,
    one_of,
    place,
    scheduled,
    section,
    staged,
)

from .guidance.options import OBJECTIVES, ISMOptions, ViewPrompts, VSDOptions
from .rendering_options import BackgroundOptions, OccupancyOptions, ShadingOptions

SCENES = ("voxels", "hash", "gaussians")
BACKENDS = ("auto", "torch", "gsplat")
SHOWN = ("grey", "white", "black")
BACKGROUNDS = (*SHOWN, "random", "learned")
WEIGHTINGS = ("sds", "uniform", "fantasia3d")
COEFFICIENTS = ("one", "learned")
AUGMENTATIONS = ("none", "render", "draw")
PART, FACES, MEMORY = 0.05, 20_000, 1.0
"""Of an export."""


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
    active_levels: Stages | None = staged(None)
    """How many of the levels there are, from the coarsest, as [0, 4, 1000, 6, 2000, 8]; the others are
    zeros. Empty: all."""


@dataclass
class DensifyOptions:
    """Adaptive density control of Gaussians, with the numbers of DreamGaussian; sizes are shares of
    scene.extent."""

    every: int = at_least(0, 0)
    """Steps between two changes of the count; 0 turns density control off. As published 100."""
    start: int = at_least(0, 100)
    """No change before this step."""
    stop: int = at_least(1, 3000)
    """Nor after this one."""
    gradient: float = more_than(0, 0.01)
    """Mean norm of the gradient by a Gaussian's place in the picture, half of whose side is 1, from which on
    it is cloned or split."""
    split_size: float = more_than(0, 0.05)
    """Greatest scale above which it is split in two, and below which it is cloned."""
    prune_opacity: float = between(1e-6, 0.5, 0.01)
    """Below this opacity it is removed."""
    prune_size: float | None = more_than(0, 0.5)
    """Greatest scale above which it is removed; empty: never."""
    reset_every: int = at_least(0, 700)
    """Steps between two resets, which lower all opacities to twice prune_opacity at most; 0: none."""
    most: int = at_least(1, 20_000)
    """Gaussians that there may be: of more candidates those of the greatest gradients are taken."""


@dataclass
class GaussianOptions:
    """3D Gaussians."""

    count: int = at_least(1, 2000)
    """How many there are at the start, where no .ply says it; they stay as many without density control."""
    backend: str = one_of(BACKENDS, "auto")
    """What splats them: torch runs anywhere; gsplat needs a CUDA device and the extra of its name; auto takes
    gsplat where it can run."""
    start: str | None = place(None, resume=True, begin="Gaussians begin")
    """What they begin as: a .ply, of Gaussians (the 3DGS layout) or of points with x y z and, if there are,
    red green blue; or a finished run's object/, whose voxels or hash grid are sampled by density. y is up.
    Empty: a grey ball."""
    densify: DensifyOptions = field(default_factory=DensifyOptions)

    @property
    def greatest_count(self) -> int:
        """The most that `count` may become."""
        return max(self.count, self.densify.most) if self.densify.every else self.count


@dataclass
class SceneOptions:
    """The scene, and how it is seen."""

    kind: str = one_of(SCENES, "voxels")
    """voxels: a dense grid over a coarser one; hash: hash grid and small network; gaussians: 3D Gaussians."""
    resolution: int = at_least(4, 40)
    """Voxels along one side (voxels), or of the finest level (hash)."""
    extent: float = more_than(0, 0.8)
    """Half the side of the cube that holds the object; for Gaussians, its mesh."""
    size: Stages = staged(32, low=4)
    """Pixels along one side of a render; [0, 16, 200, 32] are 16 at first, and 32 from step 200 on."""
    upsample: bool = False
    """Enlarge renders to the teacher's pictures; without it the two sizes must be equal."""
    samples: int = at_least(2, 40)
    """Points on each ray (voxels, hash)."""
    background: str = one_of(BACKGROUNDS, "grey")
    """learned: a small network of the ray's direction."""
    background_network: BackgroundOptions = field(default_factory=BackgroundOptions)
    shading: ShadingOptions = field(default_factory=ShadingOptions)
    occupancy: OccupancyOptions = field(default_factory=OccupancyOptions)
    hash: HashOptions = field(default_factory=HashOptions)
    gaussians: GaussianOptions = field(default_factory=GaussianOptions)


@dataclass
class CameraOptions:
    """Cameras on a sphere around the object, [least, greatest]."""

    distance: list[float] = field(default_factory=lambda: [1.5, 2.0])
    fov: list[float] = field(default_factory=lambda: [40.0, 70.0])
    """Degrees over the picture's height."""
    elevation: list[float] = field(default_factory=lambda: [-10.0, 45.0])
    """Degrees; above 60 the prompt's view is from overhead, and [−10, 90] sees everything from there, too."""
    position_noise: float = at_least(0, 0.0)
    """A camera stands off its sphere by as much at most along each axis, uniform; threestudio's
    camera_perturb, 0.1 there."""
    centre_noise: float = at_least(0, 0.0)
    """Standard deviation of the point that a camera looks at along each axis; center_perturb, 0.2 there."""
    up_noise: float = at_least(0, 0.0)
    """Standard deviation along each axis of what is added to the unit vector to its top; up_perturb, 0.02
    there."""
    sampling: str = one_of(SAMPLINGS, "iid")
    """Of a step's cameras together: stratified and antipodal spread azimuths, sobol all four; needs R > 1."""


@dataclass
class SDSOptions:
    """Score distillation sampling. Where a float or list is allowed, [0, 0.98, 0.5, 5000, 0.3, 9999] goes
    from 0.98 at step 0 to 0.5 at step 5,000 and to 0.3 at step 9,999, in straight lines; a list covers the
    run."""

    prompt: str = MISSING
    negative_prompt: str = ""
    """Takes the place of no prompt in guidance; nfsd has both, and needs one: what is not wanted, as
    "blurry, low quality, unrealistic"."""
    objective: str = one_of(OBJECTIVES, "sds")
    """sds: ε̂_∅ + s (ε̂_c − ε̂_∅) − ε; csd: s (ε̂_c − ε̂_∅) alone (classifier score distillation); nfsd: that
    and ε̂_∅ at the lowest fifth of the timesteps, ε̂_∅ − ε̂_negative above (noise-free score distillation, at
    s = 7.5), three predictions a draw; vsd: guided ε̂ − that of the renders' own score, which is learned
    (variational score distillation, at s = 7.5), three predictions and what training takes; ism: guided ε̂ at
    t − ε̂_∅ at an s below it, along one inversion (interval score matching, at s = 7.5), 3 to 8 of them."""
    view_prompts: bool = True
    """Append ", front view" and the like, as the camera stands."""
    prompts_by_view: ViewPrompts = field(default_factory=ViewPrompts)
    perp_neg: bool = False
    """Perp-Neg: lead away from the views that a camera does not have, each by the part of its direction that
    is perpendicular to the prompt's, whose embedding goes over from view to view with the azimuth. With sds,
    vsd and ism; four predictions in the place of guidance's two."""
    guidance: Schedule = scheduled(7.5, low=0)
    """Classifier-free guidance scale s of ε_∅ + s (ε_c − ε_∅); threestudio's is s − 1."""
    weighting: str = one_of(WEIGHTINGS, "sds")
    """w(t): sds 1 − ᾱ, uniform 1, fantasia3d √ᾱ (1 − ᾱ)."""
    t_min: Schedule = scheduled(0.02, low=0, high=1)
    """Least noise level, as a share of the timesteps."""
    t_max: Schedule = scheduled(0.98, low=0, high=1)
    """Greatest noise level."""
    t_max_end: float | None = between(0, 1, None)
    """What older runs have for t_max: [0, t_max, t_max_end, last step]; empty: t_max as it is."""
    coefficient: str = one_of(COEFFICIENTS, "one")
    """c in ε̂ − c ε: one (0 but for sds), or learned from past draws to lower the variance; not with ism."""
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
    lr_multiple: Schedule = scheduled(1.0, low=0)
    """Of all learning rates below."""
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
    background_lr: float = more_than(0, 0.001)
    """Of the learned background's network."""
    sparsity: Schedule = scheduled(1.0, low=0)
    """Weight of the mean over pixels of √(opacity² + 0.01)."""
    opaque: Schedule = scheduled(0.0, low=0)
    """Weight of the binary entropy of the opacity."""
    smoothness: Schedule = scheduled(0.0, low=0)
    """Weight of the mean squared difference of neighbouring voxels' density (voxels)."""
    colour_smoothness: Schedule = scheduled(0.0, low=0)
    """The same of their colours' logits (voxels): less is painted that the shape lacks."""
    orientation: Schedule = scheduled(0.0, low=0)
    """Weight of the mean over pixels of Σ_i w_i max(0, n_i · d)², which turns the normals of what is seen to
    the camera (voxels, hash). In threestudio's DreamFusion from 10 to 1000, and over the opaque pixels."""
    vsd: VSDOptions = field(default_factory=VSDOptions)
    ism: ISMOptions = field(default_factory=ISMOptions)


def greatest_level(options: SDSOptions, max_steps: int) -> Schedule:
    """t_max as a schedule, also where an older run says its end apart."""
    o = options
    if o.t_max_end is None or o.t_max_end == o.t_max:
        return o.t_max
    return [0, o.t_max, o.t_max_end, max(max_steps - 1, 1)]


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
    model: str = place("checkpoints/views-teacher/clip", hub=True)
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
    background: str | None = one_of(SHOWN, None)
    """Behind it; empty: as in training, and grey for random and learned."""
    mesh: int = at_least(8, 96)
    """Points of the mesh's grid along one side."""
    part: float = between(0, 1, PART)
    """Least share of the volume of the mesh's largest body that its other bodies have; smaller ones are left
    out."""
    faces: int = at_least(100, FACES)
    """The most that the mesh has."""
    texture: int = between(0, 16384, 1024)
    """Texels of the mesh's texture along one side, about; 0 turns it off."""
    memory: float = more_than(0, MEMORY)
    """GiB that rendering a picture or making the mesh may take, beside the scene and the encoder."""


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
