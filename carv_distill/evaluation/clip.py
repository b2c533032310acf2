"""A local or hub CLIP model: how well pictures go with a prompt, and its embeddings as features."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPModel, CLIPProcessor

from carv_distill.data.sets import to_uint8
from carv_distill.digests import check_digests
from carv_distill.errors import UserError
from carv_distill.teachers.folder import reading, refuse_code
from carv_distill.teachers.prompts import cut_text
from carv_distill.teachers.trial import try_call
from carv_distill.teachers.weights import require_finite
from carv_distill.variance import Estimate, mean_estimate

from .features import FeatureExtractor

log = logging.getLogger(__name__)


class TensorCLIP(nn.Module):
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


def load_clip(path: str | Path, key: str) -> tuple[TensorCLIP, CLIPProcessor]:
    """A frozen CLIP model and its processor, from a folder or hub id; weights from safetensors only.

    Args:
        key: of the configuration, for messages.

    Raises:
        UserError: a path that is no folder, a damaged model, or one that asks for code of its own.
    """
    if not Path(path).is_dir() and (Path(path).is_absolute() or Path(path).parent.is_dir()):
        raise UserError(f"{key}: {path} is not a folder")
    if Path(path).is_dir():
        refuse_code(Path(path))
        check_digests(Path(path))
    with reading(f"{key}: {path} holds", "CLIP model"):
        model = CLIPModel.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
        processor = CLIPProcessor.from_pretrained(path, trust_remote_code=False)
    require_finite(model, f"{key}: {path}")
    clip = TensorCLIP(model.requires_grad_(False).eval())
    _try(clip, processor, f"{key}: {path}")
    return clip, processor


def _try(clip: TensorCLIP, processor: CLIPProcessor, source: str) -> None:
    """Both halves once."""

    def of_picture() -> Tensor:
        grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
        return clip.get_image_features(processor(images=[grey], return_tensors="pt")["pixel_values"])

    def of_text() -> Tensor:
        tokens = processor(text=["a"], return_tensors="pt")
        return clip.get_text_features(tokens["input_ids"], tokens["attention_mask"])

    shape = 1, int(clip.config.projection_dim or 0)
    try_call(of_picture, shape, f"{source}: the embedding of a picture")
    try_call(of_text, shape, f"{source}: the embedding of a text")


class CutProcessor:
    """A CLIP processor that cuts texts to what the model takes.

    torchmetrics would cut off the token of their end, by which the model reads them.

    Args:
        length: tokens, start and end included.
    """

    def __init__(self, processor: CLIPProcessor, length: int) -> None:
        self.processor, self.length = processor, length

    def __call__(
        self, *, text: Any = None, images: Any = None, return_tensors: str = "pt", padding: bool = True
    ) -> Any:
        """Tokens and mask of texts [n, L], or pixels of pictures [n, 3, S, S]."""
        if text is None:
            return self.processor(images=images, return_tensors=return_tensors)
        return self.processor(
            text=text,
            return_tensors=return_tensors,
            padding=padding,
            truncation=True,
            max_length=self.length,
        )

    def cut_text(self, prompt: str) -> str:
        """The end of a prompt that is left out; mostly empty."""
        return cut_text(self.processor.tokenizer, prompt, self.length)


class ClipScorer:
    """100 · max(cos(image, text), 0) of pictures [n, 3, S, S] in [−1, 1] and one prompt.

    Args:
        path: folder or hub id of a CLIPModel with its processor.

    Source: Hessel et al. 2021, without their factor 2.5, as torchmetrics and text-to-3D papers report it.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        model, processor = load_clip(path, "clip.model")
        config: Any = model.config.text_config
        parts = model, CutProcessor(processor, config.max_position_embeddings)
        self._metric = CLIPScore(lambda: parts).to(device)  # type: ignore
        self.device = device
        self._warned: set[str] = set()

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        """The score of each picture, [n]."""
        self._warn_of_cut_text(prompt)
        scores = []
        for picture in to_uint8(images.detach()).to(self.device):
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
        pixels = processor(images=list(to_uint8(images.detach()).cpu()))["pixel_values"]
        of_images = model.get_image_features(pixels.to(self.device))
        words = [processor(text=[p]).to(self.device) for p in prompts]
        of_prompts = torch.cat([model.get_text_features(w["input_ids"], w["attention_mask"]) for w in words])
        normalize = nn.functional.normalize
        return (normalize(of_images, dim=-1) @ normalize(of_prompts, dim=-1).T).argmax(1).cpu()

    def _warn_of_cut_text(self, prompt: str) -> None:
        """Says, once for each prompt, what is beyond the text model's length and does not count."""
        processor: CutProcessor = self._metric.processor  # type: ignore[assignment]
        if (cut := processor.cut_text(prompt)) and prompt not in self._warned:
            self._warned.add(prompt)
            log.warning("the CLIP model takes %d tokens; its score is without %r", processor.length, cut)

    def mean(self, images: Tensor, prompt: str) -> Estimate:
        """The mean over pictures; its interval is over views of one object."""
        return mean_estimate(self(images, prompt).tolist())


class ClipFeatures(FeatureExtractor):
    """The projected image embeddings of a CLIP model, not normalised, for uint8 images [n, 1 or 3, H, W]: for
    images that neither digits nor ImageNet's classes describe. Grey is repeated to three channels.

    Args:
        path: folder or hub id of a CLIPModel with its processor.
        key: the configuration key that gives `path`, for the messages.

    Source: Kynkäänniemi et al. (2023), The Role of ImageNet Classes in Fréchet Inception Distance, section 4.
    """

    name = "clip"
    _network: TensorCLIP

    def __init__(self, path: Path | str, *, key: str = "fid.weights") -> None:
        self._network, self._processor = load_clip(path, key)
        self.dim = int(self._network.config.projection_dim or 0)
        digest = hashlib.sha256()  # of the tensors: a hub's model may lie in several files
        for name, tensor in sorted(self._network.clip.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.fingerprint = digest.hexdigest()[:16]

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """The projected embeddings of texts, [n, D]; what is beyond the text model's length is cut."""
        config: Any = self._network.config.text_config
        cut = CutProcessor(self._processor, config.max_position_embeddings)
        if longer := sum(bool(cut.cut_text(text)) for text in texts):
            said = "%d of %d prompts are longer than the %d tokens of the CLIP model; their ends do not count"
            log.warning(said, longer, len(texts), cut.length)
        device = next(self._network.parameters()).device
        parts = []
        for start in range(0, len(texts), 256):
            words = cut(text=list(texts[start : start + 256])).to(device)
            parts.append(self._network.get_text_features(words["input_ids"], words["attention_mask"]))
        return torch.cat(parts)

    def _features(self, images: Tensor) -> Tensor:
        colour = list(images.expand(-1, 3, -1, -1).cpu())
        pixels = self._processor(images=colour, return_tensors="pt")["pixel_values"].to(images.device)
        return self._network.get_image_features(pixels).float()
