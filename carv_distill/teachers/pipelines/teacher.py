"""A teacher that a prompt conditions, from a pipeline's folder or hub id."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.errors import UserError, shown
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.folder import reading
from carv_distill.teachers.precision import at_least_float32
from carv_distill.teachers.schedule import DiscreteSchedule, FlowSchedule
from carv_distill.teachers.scheduler import parametrisation, read_scheduler
from carv_distill.teachers.trial import try_call, try_denoiser
from carv_distill.teachers.weights import read_network, require_side

from .codecs import Codec, Pixels
from .encoder import PromptEncoder
from .family import Family
from .folder import PipelineFolder, find_pipeline
from .network import PromptNetwork


class TextTeacher(nn.Module):
    """A frozen text-to-image or text-to-video model: x = encode(picture), D(x_t, σ, prompt's condition).

    x is whatever the network denoises: latents, or the pixels themselves.

    Args:
        family: the kind of its pipeline.
        denoiser: of x.
        schedule: that it was trained on.
        prompts: prompts → conditions.
        codec: pictures ↔ x.
        size: of a picture, [height, width], or a video, [frames, height, width].
        scheduler_config: its scheduler's diffusers configuration.
    """

    def __init__(
        self,
        family: Family,
        denoiser: NetworkDenoiser,
        schedule: DiscreteSchedule,
        prompts: PromptEncoder,
        codec: Codec,
        size: Sequence[int],
        scheduler_config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.family, self.denoiser, self.schedule = family, denoiser, schedule
        self.prompts, self.codec, self.size = prompts, codec, tuple(size)
        self.scheduler_config = scheduler_config

    @property
    def network(self) -> PromptNetwork:
        """The raw network."""
        network = self.denoiser.network
        assert isinstance(network, PromptNetwork)
        return network

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x, (C, h, w) or (C, frames, h, w)."""
        return self.network.shape

    @property
    def image_size(self) -> int:
        """Side S of the square pictures that belong to it.

        Raises:
            UserError: they are not square, or videos.
        """
        if len(self.size) != 2 or self.size[0] != self.size[1]:
            raise UserError(f"teacher.size: {list(self.size)}, but square pictures are needed here")
        return self.size[0]

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """x of pictures [n, 3, …] in [−1, 1], with the graph back to them."""
        return self.codec.encode(images, generator)

    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [−1, 1] up to the decoder's error."""
        return self.codec.decode(x)

    def guided(self, scale: float, negative: str = "") -> NetworkDenoiser:
        """Under classifier-free guidance against no prompt, or a negative one; scale 1 is the plain teacher,
        and a network that is told its scale is guided by that."""
        if scale == 1 or self.prompts.guidance is not None:
            return self.denoiser
        return GuidedDenoiser(self.denoiser, scale, self.prompts.null(negative)[0])


def load_text_teacher(
    path: str | Path,
    size: Sequence[int] = (),
    guidance: float | None = None,
    dtype: torch.dtype = torch.float32,
    cond: Condition | None = None,
) -> TextTeacher:
    """A frozen teacher from one of :data:`~.families.FAMILIES`, as `model_index.json` says; weights are read
    from safetensors only.

    Args:
        size: of a picture in pixels; empty: as the network was trained on.
        guidance: the scale that a guidance-distilled network is told; None: as its pipeline has it.
        dtype: of the frozen weights, but for the autoencoder, which is small and overflows in float16: it has
            float32 at least.
        cond: a prompt's condition, of one row, to try the network with; given, the text models are not read.

    Raises:
        UserError: no pipeline there, another one, or networks that cannot be called or do not go together.
    """
    pipeline = find_pipeline(path)
    folder, family = pipeline.folder, pipeline.family
    texts = pipeline.encoder(dtype, models=cond is None)  # what is wrong with it is said first
    model = read_network(pipeline.place(family.part), family.model, dtype=dtype)
    codec = _codec(pipeline, at_least_float32(dtype))
    size = tuple(size) or _side(model, family, folder, codec)
    network = family.network(model, codec.shape(size))
    _check_channels(network, codec, folder / family.part)
    _check_patches(network, size)
    if family.embeds_guidance(model.config):
        texts.guidance = _default_guidance(family) if guidance is None else guidance
    texts.size = size
    config = read_scheduler(folder / "scheduler")
    schedule, precondition = parametrisation(config, folder / "scheduler", _tokens(network))
    if not isinstance(schedule, DiscreteSchedule):
        raise UserError(f"{folder / 'scheduler'}: a text-to-image teacher needs betas or a flow's levels")
    if family.flow and not isinstance(schedule, FlowSchedule):
        raise UserError(
            f"{folder / 'scheduler'}: {shown(config.get('_class_name'))} has betas, but "
            f"{family.pipeline.__name__} is of flow matching: FlowMatchEulerDiscreteScheduler, or one with "
            "use_flow_sigmas"
        )
    denoiser = NetworkDenoiser(network, precondition)
    teacher = TextTeacher(family, denoiser, schedule, texts, codec, size, config)
    teacher.requires_grad_(False).eval()
    _try(teacher, folder, cond)
    return teacher


def read_pipeline_network(folder: Path, family: Family, shape: tuple[int, ...]) -> PromptNetwork:
    """The network of a pipeline alone, as of a student, frozen.

    Raises:
        UserError: it is missing or damaged.
    """
    model = read_network(folder / family.part, family.model)
    return family.network(model, shape).requires_grad_(False).eval()


def _codec(pipeline: PipelineFolder, dtype: torch.dtype) -> Codec:
    family = pipeline.family
    if family.autoencoder is None:
        return Pixels()
    return family.codec(read_network(pipeline.place("vae"), family.autoencoder, dtype=dtype))


def _default_guidance(family: Family) -> float:
    """As the pipeline's call has it."""
    default: float = inspect.signature(family.pipeline.__call__).parameters["guidance_scale"].default
    return default


def _side(model: Any, family: Family, folder: Path, codec: Codec) -> tuple[int, ...]:
    """Size of the pictures that the network was trained on."""
    if family.size:
        return family.size
    require_side(model, "sample_size", folder / family.part)
    side = model.config.sample_size * getattr(codec, "factor", 1)
    return side, side


def _tokens(network: PromptNetwork) -> int | None:
    """Of a picture in a transformer."""
    grid = getattr(network, "grid", None)
    return None if grid is None else int(torch.tensor(grid).prod())


def _check_channels(network: PromptNetwork, codec: Codec, folder: Path) -> None:
    into, out = network.channels
    if into != codec.channels:
        raise UserError(
            f"{folder}: in_channels {network.config['in_channels']} makes it a network of {into} channels, "
            f"but its pipeline has {codec.channels}"
        )
    if out not in (into, 2 * into):
        raise UserError(f"{folder}: out_channels {out} is not one of {into}, {2 * into} (learned variances)")


def _check_patches(network: PromptNetwork, size: Sequence[int]) -> None:
    sides = network.shape[1:]
    if any(side % p for side, p in zip(sides, network.patch, strict=True)):
        shown_sides, patch = ("×".join(map(str, row)) for row in (sides, network.patch))
        pixels = size[-1] // sides[-1] * network.patch[-1]
        raise UserError(
            f"teacher.size: {list(size)} makes latents of {shown_sides}, which patches of {patch} do not "
            f"fill; sides must be multiples of {pixels} pixels"
        )


def _try(teacher: TextTeacher, folder: Path, cond: Condition | None) -> None:
    """Every network once: the empty prompt's condition, the denoiser with it, a grey picture's latents."""
    where = folder / next(name for name in teacher.family.texts if name.startswith("text_encoder"))
    if cond is None:
        with reading(f"{where}: there is", "embedding of a prompt"):
            cond = teacher.prompts([""])
    else:
        cond = teacher.prompts.complete(cond)
    if not cond.embeddings.isfinite().all():
        raise UserError(f"{where}: the embedding of a prompt gives NaN or infinity")
    width = cond.embeddings.shape[-1]
    config = teacher.network.config
    keys = ("cross_attention_dim", "joint_attention_dim", "caption_channels", "text_dim")
    said = ", ".join(f"{key} {config[key]}" for key in keys if config.get(key) is not None)
    size = "×".join(map(str, teacher.size))
    source = f"{folder / teacher.family.part} ({said}; prompts' embeddings have {width}; pictures {size})"
    with _quick_on_a_cpu(teacher.network):
        try_denoiser(teacher.denoiser, teacher.schedule, teacher.shape, cond, source)
    if not isinstance(teacher.codec, Pixels):
        dtype = next(teacher.codec.parameters()).dtype
        *frames, height, width = teacher.size
        grey = torch.zeros(1, 3, *frames, height, width, dtype=dtype)
        vae: Any = teacher.codec.vae
        what = f"{folder / 'vae'}: the latents of a picture"
        try_call(lambda: vae.encode(grey).latent_dist.mean, (1, *teacher.shape), what)


@contextmanager
def _quick_on_a_cpu(network: PromptNetwork) -> Iterator[None]:
    """A block in which a network of 16 bits that still lies on the CPU is a float32 one: in float16 or
    bfloat16 most CPUs take many times as long. Its weights come back as they were, bit for bit."""
    dtype = network.dtype
    slow = dtype in (torch.float16, torch.bfloat16) and network.model.device.type == "cpu"
    if slow:
        network.cast(torch.float32)
    try:
        yield
    finally:
        if slow:
            network.cast(dtype)
