"""CLIP score: how well pictures go with a prompt, by torchmetrics and a local or hub CLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPModel, CLIPProcessor

from carv_distill.data.spec import to_uint8
from carv_distill.errors import UserError
from carv_distill.variance import Estimate, mean_estimate


def load_clip(path: str | Path, key: str) -> tuple[CLIPModel, CLIPProcessor]:
    """A frozen CLIP model and its processor, from a folder or hub id; weights from safetensors only.

    Args:
        key: of the configuration, for messages.

    Raises:
        UserError: no such model, or a damaged one.
    """
    if not Path(path).is_dir() and (Path(path).is_absolute() or Path(path).parent.is_dir()):
        raise UserError(f"{key}: {path} is not a folder")
    try:
        model = CLIPModel.from_pretrained(path, use_safetensors=True)
        processor = CLIPProcessor.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: {path} holds no readable CLIP model: {reason}") from error
    return model.requires_grad_(False).eval(), processor


class ClipScorer:
    """100 · max(cos(image, text), 0) of pictures and one prompt.

    Args:
        path: folder or hub id of a CLIPModel with its processor; weights are read from safetensors only.
        device: where it runs.

    Raises:
        UserError: no such model, or a damaged one.

    Source: Hessel et al. 2021, without their factor 2.5, as torchmetrics and text-to-3D papers report it.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        model, processor = load_clip(path, "clip.model")
        self._parts = lambda: (CLIPFeatures(model), processor)
        self._metric = CLIPScore(self._parts).to(device)  # type: ignore[arg-type]
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        """The score of each picture, [n].

        Args:
            images: [n, 3, S, S] in [−1, 1].
        """
        pictures = to_uint8(images.detach()).to(self.device)
        scores = []
        for picture in pictures:
            self._metric.reset()
            scores.append(self._metric(picture, prompt))
        self._metric.reset()
        return torch.stack(scores).float().cpu()

    @torch.no_grad()
    def best_match(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Which of the prompts each picture goes with best, [n]: what CLIP R-Precision counts.

        Source: Park et al. 2021; in text-to-3D: DreamFusion, section 4.
        """
        model, processor = self._metric.model, self._metric.processor
        pixels = processor(images=list(to_uint8(images.detach()).cpu()), return_tensors="pt")["pixel_values"]
        seen = nn.functional.normalize(model.get_image_features(pixels.to(self.device)), dim=-1)
        words = [processor(text=[p], return_tensors="pt") for p in prompts]
        told = torch.cat(
            [
                model.get_text_features(w["input_ids"].to(self.device), w["attention_mask"].to(self.device))
                for w in words
            ]
        )
        return (seen @ nn.functional.normalize(told, dim=-1).T).argmax(1).cpu()

    def mean(self, images: Tensor, prompt: str) -> Estimate:
        """The mean over pictures; its interval is over views of one object."""
        return mean_estimate(self(images, prompt).tolist())


class CLIPFeatures(nn.Module):
    """A CLIP model whose features are tensors, as torchmetrics takes them: from release 5 on, transformers
    wraps them."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip, self.config = clip, clip.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[n, D]."""
        return _tensor(self.clip.get_image_features(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[n, D]."""
        return _tensor(self.clip.get_text_features(input_ids, attention_mask))


def _tensor(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output
