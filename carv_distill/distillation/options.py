"""How a student and its fake score are optimised."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from carv_distill.carv.strategies import STRATEGIES
from carv_distill.data.options import CAPTIONED
from carv_distill.engine.options import EstimatorOptions, ImageConfig
from carv_distill.options import at_least, between, more_than, one_of, place, section
from carv_distill.teachers.low_rank import LowRankOptions


@dataclass
class GANOptions:
    """A discriminator of noised pictures, beside distribution matching (DMD2, section 4.3)."""

    student_weight: float = at_least(0, 0.0)
    """Of the student's term −log D, where the matching term counts as a mean over a picture's entries, as in
    published settings; 0 is none."""
    fake_weight: float = at_least(0, 0.0)
    """Of the discriminator's loss, beside the fake score's mean squared error."""
    features: str = one_of(("fake", "teacher"), "fake")
    """Whose encoder it reads: the fake score's, which learns with it, as DMD2 has it, or that of the frozen
    teacher, as FastGen has it."""
    scales: int = at_least(1, 1)
    """Sides of the encoder that it reads, the lowest ones, with a head for each: 1 in DMD2, 3 in FastGen on
    CIFAR-10."""
    optimiser: str = one_of(("fake", "own"), "fake")
    """fake: it learns by the fake score's, as in DMD2; own: by one of its own, as in FastGen."""
    lr: float | None = more_than(0, None)
    """Of an own optimiser; empty, as the next two: the fake score's."""
    beta1: float | None = between(0, 1, None)
    beta2: float | None = between(0, 1, None)
    r1_weight: float = at_least(0, 0.0)
    """Of E(h(x_t + s ε) − h(x_t))² of real pictures x_t, beside the discriminator's loss: R1 without a second
    derivative (Lin et al. 2025, APT); 100 to 1000 where it is used."""
    r1_noise: float = more_than(0, 0.1)
    """s of that."""
    latents: str = one_of(("cached", "encoded"), "cached")
    """Of teachers of image latents: those of the data's images are encoded once and read from there; or at
    every update, where the disk does not hold them, 8 bytes for each number of x."""
    cache: str | None = place(None, resume=True)
    """A folder that is there, for these latents; empty: the user's cache, ~/.cache/carv-distill."""

    @property
    def on(self) -> bool:
        """Whether there is a discriminator."""
        return self.fake_weight > 0


@dataclass
class AdapterOptions(LowRankOptions):
    """Student, average and fake score as low-rank adapters of one frozen network (Hu et al. 2022, LoRA)."""

    kind: str = one_of(("none", "lora"), "none")
    """none: three further copies of the teacher's weights; lora: W + (α/r) B A over one copy, which is the
    teacher itself. There is no dropout: masks would not follow from (seed, share, update)."""


@dataclass
class DMDOptions:
    """Optimisation of the student and of the fake score."""

    global_batch: int | None = at_least(1, None)
    """Student samples per update over all processes; each accumulates as many shares of estimator.upstream
    samples as that takes. Empty: one share per process."""
    fake_updates_per_student: int = at_least(1, 3)
    """Fake-score updates before each student update."""
    fake_batch: int = at_least(1, 48)
    """Student samples per fake-score update and share."""
    fake_reuse: bool = True
    """One set of student samples for all fake-score updates of a student update, re-noised for each."""
    fake_strategy: str = one_of(STRATEGIES, "global")
    """How the noise levels of a fake-score batch, one per sample, are spread."""
    fake_loss: str = one_of(("weighted", "x0"), "weighted")
    """weighted: the error of the network's own output, for EDM (1/σ² + 1/σ_d²)(D − x)², as in DMD2; x0: plain
    (D − x)², as in FastGen."""
    t_min: float = between(0, 1, 0.0)
    """Least noise level of the matching term, as a share of the teacher's schedule; DMD2 has 0.02."""
    t_max: float = between(0, 1, 1.0)
    """Greatest one; DMD2 has 0.98."""
    residual_precision: str = one_of(("float32", "bfloat16"), "float32")
    """Of fake score and teacher where they are compared, whatever trainer.precision is: of the difference of
    two almost equal outputs bfloat16 leaves little. On CUDA, float32 has TF32 convolutions, and matrix
    products as trainer.float32_matmul says."""
    student_timestep: int | None = at_least(0, None)
    """τ, the noise level that the student is told, as the teacher's timestep; empty: the last one. Of
    teachers with prompts alone, whose student sees z itself. Under ε-prediction the network's error is
    multiplied by the ratio of noise to signal there: DMD2's one-step SDXL has 399."""
    start: str | None = place(None, resume=True, begin="a student begins")
    """A run's folder (its newest checkpoint) or one of its checkpoints: student and fake score begin as they
    were there, as in DMD2's second phase; empty: as the teacher. A resumed run needs it no more."""
    optimiser: str = one_of(("adamw", "adamw_8bit"), "adamw")
    """Of student, fake score and discriminator. adamw_8bit: Adam's moments in 8 bits with a scale for each
    256 numbers (Dettmers et al. 2022, by bitsandbytes, which `carv-distill[8bit]` brings), a quarter of their
    memory; its steps are near AdamW's, not the same."""
    student_lr: float = more_than(0, 3e-4)
    fake_lr: float = more_than(0, 6e-4)
    warmup: int = at_least(0, 0)
    """Student updates of linear warm-up of both learning rates."""
    lr_decay: str = one_of(("none", "student", "both"), "none")
    """Whose learning rate falls by a half cosine to zero at trainer.max_steps."""
    beta1: float = between(0, 1, 0.0)
    beta2: float = between(0, 1, 0.99)
    weight_decay: float = at_least(0, 0.0)
    ema: float = between(0, 1, 0.98)
    """Decay of the student's average per student update; 0 is none. FastGen's moves at every one of five
    iterations: its 0.9999 is 0.9999⁵ here."""
    ema_beside: list[float] = field(default_factory=list)
    """Decays of further averages, which lie in checkpoints and in student/averages/; ema is the one that is
    traced, and the student."""
    ema_half_life: float | None = more_than(0, None)
    """The same as a half-life in thousands of student samples, whatever the batch; replaces ema."""
    ema_memory: str = one_of(("device", "host"), "device", resume=True)
    """Where the averages lie: beside the student, or in the host's memory (pinned on CUDA, twice over the bus
    at each update, while the next one begins): the same numbers, and one copy of what learns less on the
    device for each average."""
    ema_ramp: bool = True
    """Let the decay be at most (1 + n)/(10 + n) at update n, so that the first student is forgotten."""
    clip_norm: float | None = more_than(0, None)
    """Largest norm of the student's gradient, a sum over a picture's C·H·W entries: where a published one is
    a mean over them (FastGen's, DMD2's), C·H·W times its norm. The number of clipped updates is logged."""
    fake_clip_norm: float | None = more_than(0, None)
    """The same of the fake score's, with a discriminator's that learns with it, and apart from it of one with
    an optimiser of its own; of a mean, as published. Logged likewise."""
    gan: GANOptions = field(default_factory=GANOptions)
    adapters: AdapterOptions = field(default_factory=AdapterOptions)
    gradient_checkpointing: bool = False
    """Blocks' activations are computed again in a backward instead of kept: about a third more time, and much
    less memory."""
    compile: bool = False
    """torch.compile of the three networks: minutes at the start, then faster updates on a GPU."""


@dataclass
class TeacherOptions:
    """The frozen teacher."""

    path: str = place(MISSING, hub=True, content=True)
    """A folder as diffusers' `save_pretrained` leaves it (a UNet2DModel, or a pipeline with one; for data
    with captions a text-to-image pipeline: Stable Diffusion 1 and 2, SDXL, SD3, Flux, PixArt, Wan,
    DeepFloyd IF), one that `python -m carv_distill.teachers.convert` made of EDM's files, or a hub id."""
    guidance: float = at_least(0, 1.0)
    """Classifier-free guidance scale s of D_∅ + s (D_c − D_∅); 1 is none. Of a network that imitates
    guidance, as Flux, the scale that it is told."""
    negative_prompt: str = ""
    """With prompts, what guidance leads away from; empty: no prompt."""
    size: list[int] = field(default_factory=list)
    """With prompts, pixels of a picture, [height, width], or of a video, [frames, height, width]; empty: as
    the network was trained on."""
    precision: str = one_of(("float32", "bfloat16", "float16"), "float32")
    """Of the frozen weights; the last layer stays in float32. Half the memory, and most of what
    dmd.residual_precision: float32 gains is lost. float16, which rounds eight times finer than bfloat16, is
    for teachers with prompts."""


@dataclass
class PromptOptions:
    """The prompts of a text-to-image student."""

    path: str | None = place(None, content=True)
    """What its samples are of: a .txt with a prompt a line, a .jsonl, .csv or .parquet with a column
    prompt, text or caption, or a folder of datasets; one that is there twice comes twice as often. Empty:
    the captions of the data, all alike."""
    cache: str | None = place(None, resume=True)
    """A folder that is there, for the prompts' embeddings, which are made once; empty: the user's cache,
    ~/.cache/carv-distill."""


@dataclass
class VarianceOptions:
    """The variance trace."""

    every: int = at_least(0, 100)
    """Student updates between two measurements; 0 turns it off."""
    pairs: int = at_least(3, 8)
    """Pairs of gradients that share their upstream draw, for each of the two samplers."""


@dataclass
class DMDConfig(ImageConfig):
    """One-step distillation."""

    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    dmd: DMDOptions = field(default_factory=DMDOptions)
    variance: VarianceOptions = section(VarianceOptions, resume=True)

    @property
    def needs_images(self) -> bool:
        """Whether there is something to do with images: labels and statistics in a file do without, captions
        and the FID of images with prompts do not."""
        if self.data.name in CAPTIONED:
            return bool(self.fid.every or self.dmd.gan.on or self.prompts.path is None)
        return self.dmd.gan.on or bool(self.fid.every and self.fid.reference is None)
