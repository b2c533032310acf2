"""CLIP's image embeddings as features: for images that neither digits nor ImageNet's classes describe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from carv_distill.data.spec import ImageSpec
from carv_distill.errors import UserError

from .clip import CLIPFeatures, load_clip


class ClipFeatures:
    """The projected image embeddings of a CLIP model, not normalised, for uint8 images [n, 1 or 3, H, W].

    Args:
        path: folder or hub id of a CLIPModel with its processor, which resizes and normalises.
        key: the configuration key that gives `path`, for the messages.

    Raises:
        UserError: no such model, or a damaged one.

    Source:
        Kynkäänniemi et al. (2023), The Role of ImageNet Classes in Fréchet Inception Distance, section 4.
    """

    name = "clip"

    def __init__(self, path: Path | str, *, key: str = "fid.weights") -> None:
        model, self._processor = load_clip(path, key)
        self._network = CLIPFeatures(model)
        self.dim = int(model.config.projection_dim or 0)
        digest = hashlib.sha256()  # of the tensors: a hub's model may lie in several files
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.fingerprint = digest.hexdigest()[:16]
        self._device = torch.device("cpu")

    def takes(self, spec: ImageSpec) -> bool:
        """Grey or colour images of any size."""
        return spec.channels in (1, 3)

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Features float32 [n, D] of uint8 [n, 1 or 3, H, W]; grey is repeated to three channels."""
        images = images_uint8
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise UserError(f"images: found {found}; this feature extractor takes uint8 [n, 1 or 3, H, W]")
        colour = list(images.expand(-1, 3, -1, -1).cpu())
        pixels = self._processor(images=colour, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self._network.get_image_features(pixels).float()

    def to(self, device: torch.device | str) -> Self:
        """Move the network to `device`; returns the extractor itself."""
        self._device = torch.device(device)
        self._network.to(device)
        return self
