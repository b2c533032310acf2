"""What evaluate.py influence is told."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from carv_distill.carv.couplings import NOISES
from carv_distill.carv.strategies import STRATEGIES
from carv_distill.data.options import IN_MEMORY, PROMPTED
from carv_distill.errors import UserError
from carv_distill.options import at_least, more_than, one_of, option, seed_option

AUTO = "auto"
SCORES = ("cosine", "inner", "tracin", "trak")
NORMALISE = ("mean", "draw")
"""Of a cosine: the mean gradient (an angle between means), or each draw's before the mean is taken."""
INDEPENDENT = tuple(name for name, s in STRATEGIES.items() if s.independent)
"""Strategies under which the groups of draws are independent of each other."""
PROPOSALS = ("uniform", "importance", "neyman")
PROJECTIONS = ("none", "countsketch", "gaussian", "rademacher")
BACKENDS = ("vmap", "backward")
OUTPUT_NAMES = ("loss", "square", "l1", "l2", "linf")
"""Of :data:`~.outputs.OUTPUTS`, which needs torch."""
PRECISIONS = ("fp32", "bf16", "bf16-true")
MOTIONS = ("none", "flow", "differences")
RENDERED_CLIPS = "clips"
NAMED = (*IN_MEMORY, *PROMPTED, RENDERED_CLIPS)
"""Training sets that need no file."""


_OF_SAMPLES = (
    "teacher", "data", "convert", "resolution", "among", "queries", "motion", "motion_floor", "cache",
    "score", "checkpoints", "precision", "offload",
)  # fmt: skip


@dataclass(frozen=True)
class ModelOptions:
    """How a model takes the samples of its training set."""

    precision: str = one_of((AUTO, *PRECISIONS), AUTO)
    """bf16: autocast; bf16-true: weights too; auto: on CUDA bf16, with backward bf16-true where the network
    allows"""
    motion: str = one_of(MOTIONS, "none")
    """of clips: errors count where something moves, by optical flow or by differences of frames"""
    motion_floor: float = more_than(0, 0.1)
    """what a position counts where nothing moves, in pixels a frame of the flow, or as a difference in
    [−1, 1]"""
    offload: bool = False
    """of transformers that do not fit on a GPU: blocks stay in the host's memory and come one at a time, with
    --gradient-checkpointing and bf16-true"""
    cache: Path | None = option(None, metavar="FOLDER")
    """of latents and prompts' embeddings, which are made once; default: the user's cache"""
    workers: int = at_least(0, 2)
    """processes that decode files"""

    def require_no_clips(self, path: str) -> None:
        """UserError for what only clips know."""
        if self.motion != "none":
            raise UserError(f"--motion: {self.motion} is of clips, but {path} learned from images")

    def require_no_blocks(self, path: str) -> None:
        """UserError for what only transformers that prompts condition have."""
        if self.offload:
            raise UserError(f"--offload: {path} is no transformer that prompts condition; leave it out")


@dataclass(frozen=True)
class InfluenceOptions(ModelOptions):
    """What evaluate.py influence is told."""

    teacher: str | None = option(None, metavar="FOLDER")
    """a teacher's folder or hub id instead of a run; needs --data"""
    data: str | None = option(None, metavar="WHAT")
    """with --teacher, its training set: digits, solids, shapes or clips, which are made in memory; or a
    folder, zip or shards of images, captioned images or captioned videos, as the teacher takes them"""
    convert: str = one_of(("none", "rgb"), "none")
    """of --data with pictures that have no captions, and of --queries then: rgb makes three channels of
    whatever a file holds; a run's are taken as its data.convert says"""
    resolution: tuple[int, ...] | None = at_least(1, None)
    """of a teacher of clips: frames, height and width; default: those that its kind was trained on, of
    rendered clips those that its folder says"""
    among: int | None = at_least(1, None)
    """training samples that are ranked, from all parts of the training set; default: all"""
    queries: str = option("samples:8", metavar="WHAT")
    """samples:8, the model's own; data:3,14, of the training set; prompt:TEXT, made for it; a folder, zip or
    shards of pictures with labels or captions; or an .npz with images and labels or prompts"""
    draws: int = at_least(1, 48)
    """K, noise levels and noises of each sample"""
    groups: int = at_least(1, 8)
    """independent parts of them, for intervals and the ranking's reliability"""
    strategy: str = one_of((AUTO, *INDEPENDENT), AUTO)
    """of noise levels; auto: a pilot tries some"""
    proposal: str = one_of((AUTO, *PROPOSALS), AUTO)
    """density of noise levels; auto: likewise"""
    noise: str = one_of((AUTO, *NOISES), AUTO)
    """coupling of noises; auto: likewise"""
    seed: int = seed_option(0)
    """of draws, pilots and projection"""
    parameters: tuple[str, ...] = option(("*",), metavar="PATTERN")
    """by name, as up_blocks.*.weight, or all of attention, mlp or lora"""
    backend: str = one_of((AUTO, *BACKENDS), AUTO)
    """of gradients: vmap, many samples at once, for small networks; backward, one sample after another, with
    the network's own attention and never a whole gradient in memory; auto: by size"""
    gradient_checkpointing: bool = False
    """of backward: activations are computed again instead of kept"""
    projection: str = one_of(PROJECTIONS, "countsketch")
    """of gradients"""
    output: str = one_of(OUTPUT_NAMES, "loss")
    """what is differentiated: the denoising loss, or of the network's output the mean square, the mean of the
    magnitudes, the root of the mean square or the largest magnitude, without the data, as D-TRAK does"""
    size: int = at_least(1, 4096)
    """numbers that a gradient is projected to"""
    score: str = one_of(SCORES, "cosine")
    """of mean gradients: cosine; inner product; tracin, its sum over --checkpoints; trak, its value with the
    inverse of the projected Gram matrix, which discounts what gradients share and takes many more draws"""
    normalise: str = one_of(NORMALISE, "mean")
    """which gradients a cosine normalises"""
    debias: bool | None = None
    """products across groups of draws alone, free of the bias of shared ones; default: all but trak's"""
    damping: float = at_least(0, 1.0)
    """of trak, relative to the mean eigenvalue"""
    checkpoints: tuple[int, ...] | None = option(None, metavar="STEP")
    """of tracin, those that the run kept"""
    votes: int | None = at_least(1, None)
    """of several queries, training samples that each votes for in the ranking for all of them; default: a
    tenth of those that are ranked"""
    chunk: int | None = at_least(1, None)
    """samples at a time by vmap, draws of one at a time by backward; default: found by trying"""
    store: Path | None = option(None, metavar="FOLDER")
    """of the features; default: store beside the figures"""
    scores: Path | None = option(None, metavar="FILE")
    """.npz or .parquet; default: <score>.npz beside the figures"""

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.data is None):
            raise UserError("--teacher and --data go together, as --teacher FOLDER --data digits")
        if self.convert != "none" and self.data is None:
            raise UserError(f"--convert: {self.convert} is for --data; a run says it by its data.convert")
        if self.resolution is not None and (self.teacher is None or len(self.resolution) != 3):
            raise UserError(
                f"--resolution: {' '.join(map(str, self.resolution))}; frames, height and width of clips are "
                "allowed, as 17 112 112, with --teacher"
            )
        if self.draws % self.groups:
            raise UserError(f"--draws: {self.draws} is no multiple of --groups, {self.groups}")
        each = self.draws // self.groups
        if self.strategy != AUTO and not STRATEGIES[self.strategy].allows(each):
            raise UserError(
                f"--strategy: {self.strategy} needs an even number of draws in a group, found {each}"
            )
        if self.debias and self.score == "trak":
            raise UserError(
                "--debias: trak has no debiased scores; its matrix is made of the draws it weighs"
            )
        if self.debiased and self.groups < 2:
            raise UserError("--groups: products across groups need 2 or more, found 1 (or say --no-debias)")
        if self.normalise == "draw" and self.score != "cosine":
            raise UserError(f"--normalise: draw is for --score cosine, found {self.score}")
        if self.score == "tracin" and not self.checkpoints:
            raise UserError(
                "--score: tracin needs --checkpoints, steps of a teacher's training that its run kept"
            )
        if self.checkpoints and self.score != "tracin":
            raise UserError(f"--checkpoints: they are for --score tracin, found {self.score}")
        if self.projection == "none" and self.score == "trak":
            raise UserError(
                "--projection: trak inverts a matrix of --size numbers squared; none is no choice"
            )
        if self.checkpoints and self.teacher is not None:
            raise UserError("--checkpoints: they are those of a teacher's run; --teacher has none")
        for name in ("gradient_checkpointing", "offload"):
            if getattr(self, name) and self.backend == "vmap":
                raise UserError(f"--{name.replace('_', '-')}: it is for --backend backward, found vmap")
        if self.scores is not None and self.scores.suffix not in (".npz", ".parquet"):
            raise UserError(f"--scores: {self.scores} must end in .npz or .parquet")
        if self.scores is not None and self.scores.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise UserError(
                f"--scores: {self.scores} needs the package pyarrow, which is not here (pip install "
                "'carv-distill[attribution]'); .npz does not"
            )

    def of_samples(self) -> dict[str, Any]:
        """The options that say which model, data and queries were meant, for JSON and back."""
        values = {name: getattr(self, name) for name in _OF_SAMPLES}
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}

    @property
    def debiased(self) -> bool:
        """Whether scores are; by default all but those of trak."""
        return self.score != "trak" if self.debias is None else self.debias
