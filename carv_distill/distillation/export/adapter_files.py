"""Adapters as files: what `load_lora_weights` of a diffusers pipeline takes, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from carv_distill.errors import UserError, one_line
from carv_distill.files import saved_folder
from carv_distill.teachers.adapters import SharedNetwork

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file's name, by which diffusers looks for it."""


def save_adapter(folder: Path, shared: SharedNetwork, adapter: str) -> None:
    """Writes :data:`WEIGHTS`, for `pipeline.load_lora_weights(folder)`.

    The keys are peft's own after the pipeline's name of the network: `unet.<layer>.lora_A.weight`. (Of a file
    with the names that `convert_state_dict_to_diffusers` gives, the loader passes over a part.) B has the
    factor α/r in it, which every reader takes for 1 where no metadata says otherwise.

    Raises:
        UserError: the file could not be written.
    """
    prefix, scale = _component(shared.model), _scale(shared, adapter)
    state = {
        f"{prefix}.{key}": (value * scale if ".lora_B." in key else value).contiguous().cpu()
        for key, value in shared.tree(adapter).state_dict().items()
    }
    with saved_folder(folder) as scratch:
        save_file(state, scratch / WEIGHTS, metadata={"format": "pt"})


def load_adapter(folder: Path, shared: SharedNetwork, adapter: str) -> None:
    """Gives an adapter the weights that :func:`save_adapter` wrote, whatever α they were trained with.

    Raises:
        UserError: the file is missing or damaged, of another network, rank or other layers, or not finite.
    """
    path, prefix = folder / WEIGHTS, _component(shared.model)
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no adapter that can be read ({one_line(error)})") from error
    expected = {f"{prefix}.{key}": value for key, value in shared.tree(adapter).state_dict().items()}
    if differing := expected.keys() ^ given.keys():
        first = min(differing)
        which = "lacks" if first in expected else "has, unlike dmd.adapters.targets,"
        raise UserError(f"{path} {which} {first} ({len(differing)} tensors differ in all)")
    for key, value in given.items():
        _check(path, key, value, expected[key])
    scale = _scale(shared, adapter)
    with torch.no_grad():
        for key, value in given.items():
            expected[key].copy_(value / scale if ".lora_B." in key else value)


def _check(path: Path, key: str, value: Tensor, expected: Tensor) -> None:
    if value.shape != expected.shape:
        found, wanted = list(value.shape), list(expected.shape)
        raise UserError(f"{path}: {key} has shape {found}; dmd.adapters and this teacher make it {wanted}")
    if not torch.isfinite(value).all():
        raise UserError(f"{path}: {key} has a value that is not finite")


def _scale(shared: SharedNetwork, adapter: str) -> float:
    """α/r, the same in all layers."""
    scale: float = next(iter(shared.layers.values())).scaling[adapter]
    return scale


def _component(model: ModelMixin) -> str:
    """What diffusers' pipelines call the network that has a LoRA."""
    return "unet" if isinstance(model, UNet2DConditionModel) else "transformer"
