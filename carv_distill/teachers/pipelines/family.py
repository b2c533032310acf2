"""What the code knows of one kind of pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from carv_distill.teachers.condition import Condition

from .codecs import Codec
from .network import PromptNetwork

Encode = Callable[[Any, Sequence[str], torch.device], Condition]
"""(pipeline with its text parts alone, prompts, device) → their condition."""

LCM: Mapping[str, Any] = {
    "_class_name": "LCMScheduler",
    "original_inference_steps": 1,  # the last timestep alone
    "timestep_scaling": 1e4,  # no share of z itself in the result
    "set_alpha_to_one": True,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Family:
    """One of diffusers' pipeline classes, by the parts that a teacher needs of it.

    Prompts are encoded by the pipeline's own `encode_prompt`, as the network was trained on them.
    """

    pipeline: type[Any]
    """Its class, whose name `model_index.json` gives."""
    part: str
    """Folder of the network: unet or transformer."""
    model: type[Any]
    """diffusers' class of it."""
    network: type[PromptNetwork]
    texts: Mapping[str, tuple[type[Any], ...]]
    """Folders of tokenizers and text models, with the classes that each may have."""
    encode: Encode
    codec: type[Codec]
    autoencoder: type[Any] | None = None
    """Class of `vae/`; None: pixels."""
    flow: bool = False
    """Whether every network of it was trained by flow matching; of others the scheduler says what it was."""
    optional: tuple[str, ...] = ()
    """Text parts that may be left out of a folder, null in its index."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Most tokens that the pipeline gives a text model, where that is not its tokenizer's own limit."""
    normal: Callable[[str], str] = lambda prompt: prompt
    """A prompt as the pipeline gives it to its tokenizers."""
    null: Callable[[Any, torch.device], Condition | None] = lambda pipeline, device: None
    """The condition of no prompt where that is not the empty prompt's."""
    size: tuple[int, ...] = ()
    """Of a picture in pixels, where the network's configuration does not tell: [height, width], or [frames,
    height, width]."""
    told_size: bool = False
    """Whether its condition has the picture's size in pixels."""
    embeds_guidance: Callable[[Mapping[str, Any]], bool] = lambda config: False
    """Whether a network of this configuration imitates guidance of a scale that it is told."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """For the pipeline's constructor beside its parts."""
    one_step: Mapping[str, Any] = field(default_factory=lambda: LCM)
    """Of one-step students on betas: class and settings of a stock scheduler that takes their step."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's call without which it would guide a student once more, or change the prompt
    or the size that it is given."""
    leaves_guidance: bool = False
    """Whether the pipeline leaves guidance to a network that has `time_cond_proj_dim`."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders of all that a teacher is read from."""
        vae = () if self.autoencoder is None else ("vae",)
        return (*self.texts, self.part, *vae, "scheduler")

    def left_out(self, index: Mapping[str, Any]) -> list[str]:
        """Text parts that a pipeline goes without, as its `model_index.json` says: models, and tokenizers of
        none."""
        declared = {part: index.get(part.replace("tokenizer", "text_encoder")) for part in self.texts}
        return [part for part, entry in declared.items() if isinstance(entry, list) and entry[:1] == [None]]
