"""What the engine is handed: a task, all that others must know of it, and what it prepares for one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.options import DataOptions

from .options import RunConfig

if TYPE_CHECKING:  # a configuration is checked without them
    from lightning.pytorch import LightningModule
    from lightning.pytorch.callbacks import Callback
    from torch import Tensor

    from carv_distill.data.captioned import PromptedSet
    from carv_distill.evaluation.generate import Sample
    from carv_distill.teachers.schedule import NoiseSchedule
    from carv_distill.variance import MeasuredGradient


@dataclass(frozen=True)
class Prepared:
    """A module, and what is to happen beside its updates."""

    module: LightningModule
    callbacks: Callable[[Path], list[Callback]]
    """The task's own, given the run's folder."""
    save: Callable[[Any, Path, int], None]
    """Writes the module's product, given its folder and the update, at every checkpoint."""
    finish: Callable[[Any, Path], None] = lambda module, run: None
    """Makes what only a finished run has, given the module and the run's folder, from the two alone."""
    require: Callable[[], None] = lambda: None
    """Raises UserError for what its updates lack here, as memory or a package; a product needs none of it."""
    begin: Callable[[], None] = lambda: None
    """Puts the module where a run begins that has no checkpoint to go on from."""
    ready: Callable[[], None] = lambda: None
    """Makes, before the run's folder, what takes long and is kept elsewhere, as latents; of several processes
    all call it at once."""
    shown: dict[str, str] = field(default_factory=dict)
    """Metrics that the progress line shows, with their format."""
    accumulate: int = 1
    """Shares of the batch that each process works through in an update."""
    staged: bool = False
    """Whether one stage's networks at a time have gradients."""
    gather: Callable[[Any], None] = lambda module: None
    """Brings to rank 0 what `save` writes there of a module whose processes have parts of it; all call it."""


@dataclass(frozen=True)
class Generator:
    """What makes images of a run: its product, or the teacher it learned from."""

    name: str
    """Its row in the table of `evaluate.py fid`."""
    load: Callable[[], Sample]
    """Reads it: one that is not asked for need not be there."""
    teacher: bool = False
    """Whether it is the run's teacher."""
    latent: tuple[int, ...] | None = None
    """Shape of one z, where that is not an image's."""
    prompts: PromptedSet | None = None
    """What its labels are numbers of, where they are prompts."""
    size: int | None = None
    """Pixels along one side of its pictures, where no data say it."""


@dataclass(frozen=True)
class TrainedModel:
    """A diffusion model and what it learned from, as data attribution takes them."""

    path: str | Path
    """Folder or hub id."""
    data: DataOptions | ClipOptions
    seed: int = 0
    """Of the training set, where that is of rendered images."""
    levels: NoiseSchedule | None = None
    """u → σ of the training's loss; None is the model's own schedule, uniform in u."""
    weights: dict[str, Tensor] | None = None
    """The denoiser's as they were at a step of the training, instead of those that were exported."""
    learning_rate: float | None = None
    """At that step."""
    student: Path | None = None
    """Whose samples are the queries; None is the model itself."""


@dataclass(frozen=True)
class PageWords:
    """What the page of a run calls things that each capability has its own words for."""

    task: str = "Run"
    """What was done, as "One-step distillation"."""
    pictures: str = "Samples"
    """Heading of the pictures made along the training."""
    shown: str = "Samples from the same noise"
    """What they show."""
    upstream: str = "sample"
    """One upstream sample."""


@dataclass(frozen=True)
class Task:
    """A capability as a value: its folder makes one, and `tasks.py` lists it.

    What is needed before a run starts is plain; what needs torch is a function that imports it when called.
    """

    name: str
    config: type[RunConfig]
    example: str
    """A configuration of it that ships, as dmd_carv.yaml."""
    product: str
    """Sub-folder of the run for what it makes."""
    prepare: Callable[[Any, str, int], Prepared]
    """(config, device, number of processes) → what is trained; UserError for input that does not fit."""
    out_of_memory: str
    """What takes less memory, for one who has run out of it."""
    check: Callable[[Any], None] = lambda config: None
    """Raises UserError for values that do not go together."""
    fixed_length: Callable[[Any], str] = lambda config: "its learning rates decay"
    """What goes on over trainer.max_steps, so that a resumed run must keep it; empty: nothing does."""
    begins: Callable[[Any], bool] = lambda config: True
    """Whether an option says what a run of this configuration begins with, where the task has one."""
    gradient: Callable[[Any, Path, str, int | None], MeasuredGradient] | None = None
    """(config, run, device, step of the checkpoint or None for the newest) → for `evaluate.py variance`."""
    generators: Callable[[Any, Path, str, bool], list[Generator]] | None = None
    """(config, run, device, whether labels are numbers of the run's own prompts, and not of its data's
    captions) → for `evaluate.py fid` and `clip`: the product first, then its teacher."""
    model: Callable[[Any, Path, int | None], TrainedModel] | None = None
    """(config, run, step of a checkpoint or None for the product) → for `evaluate.py influence`."""
    model_at_steps: bool = False
    """Whether `model` takes a step; else it is given None."""
    no_model: Callable[[Any], str] = lambda config: ""
    """config → why a run has no `model`, and what has one in its place; empty: it has."""
    remake: Callable[[Any, Path, str, int | None], int] | None = None
    """(config, run, device, step of a checkpoint or None for the newest) → its update: makes the product anew
    without what only updates need, as a teacher. None: by `prepare`."""
    shards: bool = False
    """Whether its module can shard its networks (trainer.sharding)."""
    media: tuple[str, ...] = ()
    """Files of its product that loggers show at the end: a .png, an .mp4, a .glb; one may be missing."""
    renders: bool = False
    """Whether its product is an object, whose pictures and mesh are made with it."""
    prompted: Callable[[Any], bool] | None = None
    """config → whether what a run makes has prompts, as `evaluate.py clip` needs: the pictures of its
    generators, or, without any, the object that it renders."""
    further: Callable[[Any, Path], dict[str, str]] = lambda config, run: {}
    """(config, run) → commands that train something else with its product, by what they do."""
    words: PageWords = PageWords()
    """Of its runs' pages."""
