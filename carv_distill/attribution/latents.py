"""What identifies tensors, and latents that are encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.files import atomic_file


def digest(tensors: Iterable[Tensor], words: str = "") -> str:
    """Sixteen hexadecimal digits of words and of the tensors' bytes, types and shapes (BLAKE2b)."""
    hashed = hashlib.blake2b(words.encode(), digest_size=8)
    for tensor in tensors:
        t = tensor.detach().cpu().contiguous()
        hashed.update(f"{t.dtype}{list(t.shape)}".encode())
        hashed.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def kept_latents(path: Path, key: str, encode: Callable[[], Tensor]) -> Tensor:
    """The latents in a safetensors file, or, where there is none, those that `encode` makes; then kept there.

    Args:
        path: of the file.
        key: of pictures and autoencoder, by :func:`digest`.
        encode: all latents, [N, …].

    Raises:
        UserError: the file was made from other pictures or another autoencoder, or cannot be read.
    """
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                there = (file.metadata() or {}).get("key")
                if there == key:
                    return file.get_tensor("latents")
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read ({error}); remove it to have it made anew") from error
        raise UserError(
            f"{path} holds latents of other pictures or another autoencoder (key {there}, now {key}); give "
            "another folder by --store, or remove this one"
        )
    latents = encode()
    with atomic_file(path) as out:
        out.write(save({"latents": latents.contiguous()}, {"key": key}))
    return latents
