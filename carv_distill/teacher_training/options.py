"""What teachers are and how they are trained: of labelled images, and of images with prompts, by latents or
pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

from carv_distill.data.options import DataOptions
from carv_distill.engine.options import ImageConfig, PreviewOptions, RunConfig
from carv_distill.options import as_in, at_least, between, more_than, place, section


@dataclass
class PretrainOptions:
    """What a teacher is and how it is trained."""

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Channels of each resolution; attention at the lowest one."""
    layers: int = at_least(1, 1)
    """Residual layers per resolution."""
    head_channels: int = at_least(1, 32)
    """Channels of one attention head."""
    label_dropout: float = between(0, 1, 0.1)
    """Share of labels replaced by the null label, for classifier-free guidance."""
    start: str | None = place(None, hub=True, resume=True, begin="a teacher begins")
    """The folder of a teacher of the same sizes, or of the run that made it, or a hub id: the training starts
    from these weights, for more steps or other data; empty: from random ones. A resumed run needs it no
    more."""
    sigma_min: float = more_than(0, 0.002)
    sigma_max: float = more_than(0, 80.0)
    rho: float = more_than(0, 7.0)
    sigma_data: float = more_than(0, 0.5)
    """Standard deviation of the data, pixels in [−1, 1]."""
    p_mean: float = -1.2
    """Training noise levels: ln σ ~ N(p_mean, p_std²)."""
    p_std: float = more_than(0, 1.2)
    batch: int = at_least(1, 128)
    """Images per step and process."""
    learning_rate: float = more_than(0, 1e-3)
    warmup: int = at_least(0, 100)
    """Steps of linear warm-up; cosine decay to zero follows."""
    weight_decay: float = at_least(0, 0.0)
    ema: float = between(0, 1, 0.999)


@dataclass
class TeacherConfig(ImageConfig):
    """Training a teacher."""

    training: PretrainOptions = field(default_factory=PretrainOptions)


@dataclass
class TextTeacherOptions:
    """Networks, stages and rates; pixels and latents are square."""

    vae_channels: list[int] = field(default_factory=lambda: [16, 32])
    """Of each resolution: n of them make latents 2ⁿ⁻¹ times smaller than the pictures."""
    latent_channels: int = at_least(1, 4)
    unet_channels: list[int] = field(default_factory=lambda: [32, 64])
    """Of each resolution."""
    attention_size: int | None = at_least(1, None)
    """Entries of the latents along one side from which resolution on there is attention to the prompt; at the
    largest it may take half of a step's time. Empty: at all of them."""
    text_width: int = at_least(8, 32)
    text_layers: int = at_least(1, 2)
    clip_width: int = at_least(8, 64)
    clip_layers: int = at_least(1, 3)
    clip_patch: int = at_least(1, 4)
    """Pixels along one side of a patch of the CLIP model."""
    vae_share: float = between(0, 1, 0.2)
    """Share of the steps that the autoencoder gets, before the others start."""
    clip_share: float = between(0, 1, 0.12)
    """Share of the steps that the CLIP model gets at the end; between the two, denoiser and text encoder."""
    batch: int = at_least(1, 32)
    """Pictures per step and process."""
    vae_lr: float = more_than(0, 2e-3)
    unet_lr: float = more_than(0, 1e-3)
    clip_lr: float = more_than(0, 1e-3)
    warmup: int = at_least(0, 50)
    """Steps of linear warm-up of each stage; cosine decay to zero follows."""
    vae_tie: float = at_least(0, 0.03)
    """Weight of the term that ties the encoder's transposed Jacobian to the decoder's."""
    kl_weight: float = at_least(0, 1e-6)
    """Of the latents' KL divergence to N(0, I), beside the mean absolute error of a pixel."""
    prompt_dropout: float = between(0, 1, 0.1)
    """Share of prompts replaced by the empty one, for classifier-free guidance."""
    clip_noise: float = at_least(0, 0.2)
    """The CLIP model sees pictures with noise of a standard deviation up to this."""
    ema: float = between(0, 1, 0.999)
    """Of denoiser and text encoder."""


@dataclass
class TextTeacherConfig(RunConfig):
    """Training a miniature Stable Diffusion."""

    data: DataOptions = field(default_factory=lambda: DataOptions("shapes"))
    training: TextTeacherOptions = field(default_factory=TextTeacherOptions)
    preview: PreviewOptions = section(PreviewOptions, resume=True)


@dataclass
class SubsetOptions:
    """Of a training set that is rendered."""

    only: str | None = as_in(DataOptions, "only")
    """A file with the numbers, from 0 on, of the views or clips that are taken, separated by blanks or line
    ends; all others are left out, as for evaluate.py lds."""


@dataclass
class PixelTeacherOptions:
    """Networks, stages and rates of a teacher of pixels."""

    views: int = at_least(1, 320)
    """Of each solid; every picture draws all else anew."""
    size: int = at_least(8, 32)
    """Pixels along one side."""
    unet_channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96])
    """Of each resolution."""
    attention_size: int = at_least(1, 8)
    """Pixels along one side from which resolution on there is attention to the prompt."""
    text_width: int = at_least(8, 32)
    text_layers: int = at_least(1, 1)
    clip_width: int = at_least(8, 64)
    clip_layers: int = at_least(1, 3)
    clip_patch: int = at_least(1, 4)
    """Pixels along one side of a patch of the CLIP model."""
    clip_share: float = between(0, 1, 0.15)
    """Share of the steps that the CLIP model gets at the end."""
    clip_noise: float = at_least(0, 0.2)
    """The CLIP model sees pictures with noise of a standard deviation up to this,"""
    clip_plain: float = between(0, 1, 0.5)
    """and this share of them on white, grey or black."""
    batch: int = at_least(1, 64)
    """Pictures per step and process of the denoiser,"""
    clip_batch: int = at_least(1, 64)
    """and of the CLIP model."""
    unet_lr: float = more_than(0, 1e-3)
    clip_lr: float = more_than(0, 1e-3)
    warmup: int = at_least(0, 50)
    """Steps of linear warm-up of each stage; cosine decay to zero follows."""
    prompt_dropout: float = between(0, 1, 0.1)
    """Share of prompts replaced by the empty one, for classifier-free guidance."""
    ema: float = between(0, 1, 0.999)
    """Of denoiser and text encoder."""


@dataclass
class PixelTeacherConfig(RunConfig):
    """Training a miniature DeepFloyd IF."""

    data: SubsetOptions = field(default_factory=SubsetOptions)
    training: PixelTeacherOptions = field(default_factory=PixelTeacherOptions)
    preview: PreviewOptions = section(PreviewOptions, resume=True)


@dataclass
class VideoTeacherOptions:
    """Networks, stages and rates of a teacher of clips."""

    frames: int = at_least(5, 17)
    """4 m + 1."""
    size: int = at_least(16, 96)
    """Pixels along one side."""
    clips: int = at_least(8, 2000)
    """Of the training set."""
    vae_channels: int = at_least(4, 32)
    latent_channels: int = at_least(1, 16)
    patch: int = at_least(1, 4)
    """Latents along one side of what is one token of the transformer."""
    width: int = at_least(6, 144)
    """Of the transformer,"""
    heads: int = at_least(1, 6)
    """among so many heads of attention; fewer ones take less time, above all where tokens are many."""
    layers: int = at_least(1, 6)
    """How many blocks it has."""
    text_width: int = at_least(8, 32)
    text_layers: int = at_least(1, 1)
    vae_share: float = between(0, 1, 0.5)
    """Share of the steps that the autoencoder gets, before the transformer starts."""
    vae_batch: int = at_least(1, 24)
    """Crops per step and process of the autoencoder: of many small ones it learns faster than of few,"""
    vae_crop: int = at_least(16, 16)
    """of so many pixels along one side"""
    vae_frames: int = at_least(5, 5)
    """and so many frames, 4 m + 1; in the last third of its steps of all frames, and accordingly fewer;"""
    batch: int = at_least(1, 8)
    """clips of the transformer."""
    small_sizes: list[int] = field(default_factory=list)
    """Pixels along one side of the clips that the transformer learns from before those of `size`, one size
    after the other, which takes a fraction of the time; empty: of `size` from the start."""
    small_shares: list[float] = field(default_factory=list)
    """Share of the transformer's steps that each of these sizes gets,"""
    small_batches: list[int] = field(default_factory=list)
    """and how many clips a step."""
    vae_lr: float = more_than(0, 4e-3)
    lr: float = more_than(0, 1e-3)
    """Of transformer and text encoder."""
    warmup: int = at_least(0, 50)
    """Steps of linear warm-up of each stage; cosine decay to zero follows."""
    clip_norm: float = more_than(0, 1.0)
    """Greatest norm of a gradient."""
    kl_weight: float = at_least(0, 1e-6)
    """Of the latents' KL divergence to N(0, I), beside the mean absolute error of a pixel."""
    prompt_dropout: float = between(0, 1, 0.1)
    """Share of prompts replaced by the empty one, for classifier-free guidance."""
    shift: float = more_than(0, 1.0)
    """Of the levels t that are learned and sampled: s t/(1 + (s − 1) t), t uniform."""
    ema: float = between(0, 1, 0.999)
    """Of transformer and text encoder."""


@dataclass
class VideoTeacherConfig(RunConfig):
    """Training a miniature Wan."""

    data: SubsetOptions = field(default_factory=SubsetOptions)
    training: VideoTeacherOptions = field(default_factory=VideoTeacherOptions)
    preview: PreviewOptions = section(PreviewOptions, resume=True)
