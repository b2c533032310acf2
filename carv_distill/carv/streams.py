"""Random streams that are a function of their name, not of what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def stream(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator whose state depends on `key` alone, e.g. ``stream(seed, rank, step, "upstream")``.

    Several processes and a resumed run then draw the same numbers by construction: there is no state to
    save. Two different keys give independent streams (BLAKE2b of the key is the seed; of its 63 bits the
    CPU's generator uses 32, so among 10⁵ CPU streams one pair is expected to coincide).
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 1)
