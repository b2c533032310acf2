"""Latents kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.attribution.latents import digest, kept_latents
from carv_distill.errors import UserError


def test_latents_are_encoded_once(tmp_path: Path) -> None:
    made = []

    def encode() -> torch.Tensor:
        made.append(1)
        return torch.arange(6.0).view(2, 3)

    path = tmp_path / "kept" / "latents.safetensors"
    first, again = (kept_latents(path, "key", encode) for _ in range(2))
    assert torch.equal(first, again)
    assert len(made) == 1
    with pytest.raises(
        UserError, match=r"latents of other pictures or another autoencoder \(key key, now k2\)"
    ):
        kept_latents(path, "k2", encode)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"latents.safetensors cannot be read .* remove it"):
        kept_latents(path, "key", encode)


def test_a_digest_tells_values_shapes_and_types_apart() -> None:
    a = torch.arange(6.0)
    kinds = [[a], [a.view(2, 3)], [a.double()], [a + 1], [a, a], [a.bfloat16()]]
    assert len({digest(k) for k in kinds}) == len(kinds)
    assert digest([a]) == digest([a.clone()])
