"""Networks from their `config.json` and safetensors: what is there, whole, of that size, and finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import safe_open
from torch import nn

from carv_distill.digests import WEIGHTS, check_digests
from carv_distill.errors import UserError, shown

from .folder import read_json, reading, refuse_code

LARGEST_SIDE = 4096
"""Pixels, or latents."""
_MOST_LAYERS = 1000
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


def read_network(folder: Path, kind: Any, low_memory: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    """A network of one of diffusers' or transformers' classes, from safetensors only.

    Args:
        low_memory: its weights are never initialised, only read.
        dtype: of the weights, whatever the files hold.

    Raises:
        UserError: it is missing, damaged, not finite, of another size than its weights, or lacks some, which
            would be left at random values.
    """
    refuse_code(folder)
    files = weight_files(folder, kind)
    check_digests(folder)
    config = read_json(folder / "config.json")
    _refuse_many_layers(config, folder)
    with reading(f"{folder} has", kind.__name__):
        for file in files:
            with safe_open(file, "pt"):
                pass  # its header fits its length, which diffusers says less clearly
    if issubclass(kind, ModelMixin):
        _check_size(folder, kind, config, files)
    precision = {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}
    with reading(f"{folder} has", kind.__name__):
        network, loading = kind.from_pretrained(
            folder,
            **precision,
            use_safetensors=True,
            low_cpu_mem_usage=low_memory,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if missing := loading["missing_keys"]:
        raise UserError(f"{folder} lacks {len(missing)} of the network's weights, such as {min(missing)}")
    # transformers' text models are read from files that hold their picture's half too
    if issubclass(kind, ModelMixin) and (unused := loading["unexpected_keys"]):
        raise UserError(
            f"{folder} has {len(unused)} weights for which its config.json leaves no place, such as "
            f"{min(unused)}"
        )
    require_finite(network, str(folder))
    return network


def require_finite(network: nn.Module, source: str) -> None:
    """UserError naming the first weight with NaN or infinity: a run would blame its learning rate."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{source}: NaN or infinity among the weights {name}; they are damaged")


def require_side(network: Any, key: str, folder: Path) -> None:
    """That the side of a network's pictures is one whole number; [8, 8] becomes 8.

    Raises:
        UserError: it is none, or two, or out of reach.
    """
    path, side = folder / "config.json", network.config.get(key)
    if isinstance(side, list | tuple) and len(side) == 2:
        if side[0] != side[1]:
            raise UserError(f"{path}: {key} is {list(side)}; pictures must be square")
        side = side[0]
    if type(side) is not int:
        found = "null" if side is None else shown(side)
        raise UserError(f"{path}: {key} is {found}, not a whole number of pixels along one side, as 32")
    if not 1 <= side <= LARGEST_SIDE:
        raise UserError(f"{path}: {key} is {side}; allowed are 1 to {LARGEST_SIDE}")
    if side != network.config[key]:
        network.register_to_config(**{key: side})


def weight_files(folder: Path, kind: Any) -> list[Path]:
    """The files with a network's weights: one, or its parts.

    Raises:
        UserError: there are none by the name that is read, saying what there is instead and what to do.
    """
    stem = "diffusion_pytorch_model" if issubclass(kind, ModelMixin) else "model"
    name = f"{stem}.safetensors"
    if (folder / name).is_file():
        return [folder / name]
    if (folder / f"{name}.index.json").is_file():
        return sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    what = f"{folder} has no readable {kind.__name__}: {name} is missing"
    others = sorted(folder.glob(WEIGHTS))
    if others:
        raise UserError(f"{what}; there is {others[0].name}: to use it, rename or copy it to {name}")
    pickles = sorted(p for pattern in _OTHER_WEIGHTS for p in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{what}; there is {pickles[0].name}, a kind of file that is never opened here, as it may run "
            f"code: where you trust it, {kind.__name__}.from_pretrained(FOLDER, use_safetensors=False)"
            ".save_pretrained(FOLDER) writes safetensors"
        )
    raise UserError(f"{what}; of a hub's model only that file is fetched, no variant and no pickle")


def _refuse_many_layers(config: dict[str, Any], folder: Path) -> None:
    """A network is built before it is compared with its weights: a million layers would take hours."""
    for key, value in config.items():
        counts = value if isinstance(value, list) else [value]
        if "layers" in key or "blocks" in key:
            for count in counts:
                if isinstance(count, int) and count > _MOST_LAYERS:
                    raise UserError(
                        f"{folder / 'config.json'}: {key} is {shown(count)}; at most {_MOST_LAYERS}"
                    )


def _check_size(folder: Path, kind: Any, config: dict[str, Any], files: list[Path]) -> None:
    """That the configured network can be built, and fits into its files: a number takes a byte at least."""
    with (
        reading(f"{folder / 'config.json'}: there is", f"{kind.__name__} of such sizes"),
        torch.device("meta"),
    ):
        network = kind.from_config(config)
    numbers, size = sum(p.numel() for p in network.parameters()), sum(f.stat().st_size for f in files)
    if numbers > size:
        raise UserError(
            f"{folder / 'config.json'}: a network of {numbers:,} numbers does not fit into the {size:,} "
            "bytes of its weights"
        )
