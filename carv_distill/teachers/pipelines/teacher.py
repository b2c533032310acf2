"""A teacher that a prompt conditions, from a pipeline's folder or hub id."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import is_sentencepiece_available

from carv_distill.digests import DIGESTS
from carv_distill.errors import UserError, shown
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.folder import local_folder, read_json, reading, refuse_code
from carv_distill.teachers.schedule import DiscreteSchedule
from carv_distill.teachers.scheduler import parametrisation, read_scheduler
from carv_distill.teachers.trial import try_call, try_denoiser
from carv_distill.teachers.weights import read_network, require_side

from .codecs import Codec, Pixels
from .encoder import PromptEncoder
from .families import FAMILIES
from .family import Family
from .network import PromptNetwork

INDEX = "model_index.json"


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
) -> TextTeacher:
    """A frozen teacher from one of :data:`~.families.FAMILIES`, as `model_index.json` says; weights are read
    from safetensors only.

    Args:
        size: of a picture in pixels; empty: as the network was trained on.
        guidance: the scale that a guidance-distilled network is told; None: as its pipeline has it.
        dtype: of the frozen weights.

    Raises:
        UserError: no pipeline there, another one, or networks that cannot be called or do not go together.
    """
    # The index comes first: of a hub's pipeline that is refused, nothing else is fetched.
    index_file = local_folder(str(path), [INDEX]) / INDEX
    if not index_file.is_file():
        raise UserError(
            f"teacher.path: {path} has no {INDEX}; it must be the folder of a pipeline, one of "
            f"{', '.join(FAMILIES)}"
        )
    index = read_json(index_file)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"teacher.path: {index_file} has _class_name {shown(name)}, not one of {', '.join(FAMILIES)}"
        )
    family = FAMILIES[name]
    kinds = (".json", ".txt", ".model", ".safetensors", DIGESTS)  # pickles are not even fetched
    names = [*family.texts, family.part, *(["vae"] if family.autoencoder else []), "scheduler"]
    folder = local_folder(str(path), [INDEX, *(f"{part}/*{kind}" for part in names for kind in kinds)])
    _refuse_second_network(index, family, index_file)
    every = {part: _text_part(folder, family, part, index, dtype) for part in family.texts}
    parts = {name: part for name, part in every.items() if part is not None}
    model = _read(folder, family.part, family.model, dtype)
    codec = (
        Pixels()
        if family.autoencoder is None
        else family.codec(_read(folder, "vae", family.autoencoder, dtype))
    )
    side = _side(model, family, folder, codec)
    size = tuple(size) or side
    network = family.network(model, codec.shape(size))
    _check_channels(network, codec, folder / family.part)
    if family.embeds_guidance(model.config) and guidance is None:
        guidance = _default_guidance(family)
    told = guidance if family.embeds_guidance(model.config) else None
    config = read_scheduler(folder / "scheduler")
    tokens = _tokens(network)
    schedule, precondition = parametrisation(config, folder / "scheduler", tokens)
    if not isinstance(schedule, DiscreteSchedule):
        raise UserError(f"{folder / 'scheduler'}: a text-to-image teacher needs betas or a flow's levels")
    teacher = TextTeacher(
        family,
        NetworkDenoiser(network, precondition),
        schedule,
        PromptEncoder(family, parts, size, told),
        codec,
        size,
        config,
    )
    teacher.requires_grad_(False).eval()
    _try(teacher, folder)
    return teacher


def _refuse_second_network(index: Mapping[str, Any], family: Family, file: Path) -> None:
    """Wan 2.2 has one network for high noise and one for low."""
    second = index.get(f"{family.part}_2")
    if isinstance(second, list) and second[0] is not None:
        raise UserError(f"{file}: {family.part}_2, a second network for low noise, is not supported")


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
        raise UserError(f"{folder}: in_channels {into} is not {codec.channels}, as its pipeline needs")
    if out not in (into, 2 * into):
        raise UserError(f"{folder}: out_channels {out} is not one of {into}, {2 * into} (learned variances)")


def _try(teacher: TextTeacher, folder: Path) -> None:
    """Every network once: the empty prompt's condition, the denoiser with it, a grey picture's latents."""
    where = folder / next(name for name in teacher.family.texts if name.startswith("text_encoder"))
    with reading(f"{where}: there is", "embedding of a prompt"):
        cond = teacher.prompts([""])
    if not cond.embeddings.isfinite().all():
        raise UserError(f"{where}: the embedding of a prompt gives NaN or infinity")
    width = cond.embeddings.shape[-1]
    config = teacher.network.config
    keys = ("cross_attention_dim", "joint_attention_dim", "caption_channels", "text_dim")
    said = ", ".join(f"{key} {config[key]}" for key in keys if config.get(key) is not None)
    source = f"{folder / teacher.family.part} ({said}; prompts' embeddings have {width})"
    try_denoiser(teacher.denoiser, teacher.schedule, teacher.shape, cond, source)
    if not isinstance(teacher.codec, Pixels):
        dtype = next(teacher.codec.parameters()).dtype
        *frames, height, width = teacher.size
        grey = torch.zeros(1, 3, *frames, height, width, dtype=dtype)
        vae: Any = teacher.codec.vae
        what = f"{folder / 'vae'}: the latents of a picture"
        try_call(lambda: vae.encode(grey).latent_dist.mean, (1, *teacher.shape), what)


def _read(folder: Path, part: str, kind: Any, dtype: torch.dtype) -> Any:
    place = folder / part
    if not place.is_dir():
        raise UserError(f"{folder} lacks its part {part}/; its pipeline has {part}")
    return read_network(place, kind, dtype=dtype)


def _text_part(folder: Path, family: Family, part: str, index: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A tokenizer or text model; None for one that the pipeline may do without."""
    place = folder / part
    declared = index.get(part)
    if part in family.optional and isinstance(declared, list) and declared[0] is None:
        return None
    if not place.is_dir():
        raise UserError(f"{folder} lacks its part {part}/; its pipeline has {', '.join(family.texts)}")
    (kind,) = family.texts[part]
    if issubclass(kind, nn.Module):
        return read_network(place, kind, dtype=dtype)
    return _read_tokenizer(place, kind)


def _read_tokenizer(place: Path, kind: Any) -> Any:
    """transformers reads a folder without a vocabulary as a tokenizer to which every word is unknown."""
    names = kind.vocab_files_names.values()
    present = [name for name in names if (place / name).is_file()]
    if not present:
        raise UserError(f"{place} lacks its vocabulary: none of {', '.join(names)} is there")
    if present == ["spiece.model"] and not is_sentencepiece_available():
        raise UserError(
            f"{place / 'spiece.model'} needs the package sentencepiece, which is not here (pip install "
            "sentencepiece); a tokenizer.json beside it would not"
        )
    refuse_code(place)
    with reading(f"{place} has", kind.__name__):
        tokenizer = kind.from_pretrained(place, trust_remote_code=False)
    if not isinstance(length := tokenizer.model_max_length, int) or length < 2:
        found = shown(length)
        raise UserError(f"{place}: model_max_length is {found}, not a whole number from 2 on (start and end)")
    return tokenizer
