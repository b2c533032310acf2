"""The small classifier whose penultimate layer plays Inception's part on small pictures, as digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from carv_distill.data.sets import ImageSpec
from carv_distill.digests import check_digests
from carv_distill.errors import UserError, one_line

from .features import FeatureExtractor, read_weights

WEIGHTS = "model.safetensors"
COMMAND = "python -m carv_distill.teacher_training.classifier"


class Classifier(nn.Module):
    """3×3 convolutions (ReLU, 2×2 max pooling), D features (SiLU), logits.

    Args:
        shape: (C, S, S) of an image; S is divisible by 2 to the number of convolutions.
        channels: of each convolution.
        dim: D.
        classes: number of logits.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        channels: Sequence[int] = (32, 64),
        dim: int = 64,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.shape, self.dim = shape, dim
        self.convolutions: list[nn.Conv2d] = []
        for i, (before, after) in enumerate(zip((shape[0], *channels), channels, strict=False), 1):
            self.convolutions.append(nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"conv{i}", self.convolutions[-1])
        side = shape[1] >> len(channels)
        self.penultimate = nn.Linear(channels[-1] * side * side, dim)
        self.head = nn.Linear(dim, classes)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Classifier:
        """The network whose weights these are, whose sizes are read off theirs; on the meta device without.

        Raises:
            KeyError, ValueError, RuntimeError: they are another network's.
        """
        _, inputs, *_ = state["conv1.weight"].shape
        (dim, flat), (classes, _) = state["penultimate.weight"].shape, state["head.weight"].shape
        widths: list[int] = []
        while (name := f"conv{len(widths) + 1}.weight") in state:
            widths.append(len(state[name]))
        size = isqrt(flat // max(widths[-1], 1)) << len(widths)
        # on the meta device, because drawing initial weights would advance the caller's random state
        with torch.device("meta"):
            network = cls((inputs, size, size), widths, dim, classes)
        network.load_state_dict(state, assign=True)
        return network

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations, float [n, D], of images [n, C, S, S] in 0..255 (uint8 or float)."""
        x = images.to(self.head.weight.dtype) / 127.5 - 1
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        # not ReLU: a third of the units would be silent on every digit, and the metrics blind along them
        return F.silu(self.penultimate(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float [n, classes], of images [n, C, S, S] in 0..255."""
        return self.head(self.features(images))


class ClassifierFeatures(FeatureExtractor):
    """The penultimate activations of a :class:`Classifier`, for uint8 images of its own shape.

    Args:
        folder: holds `model.safetensors`, as `python -m carv_distill.teacher_training.classifier` writes it.
        name: what a report calls them.

    Raises:
        UserError: a corrupt file, or tensors of another network.
    """

    _network: Classifier

    def __init__(self, folder: Path | str, name: str = "classifier") -> None:
        self.name = name
        path, remedy = Path(folder) / WEIGHTS, f"make them: {COMMAND} --data NAME --out {folder}"
        content, digest = read_weights(path, remedy)
        check_digests(path.parent)
        self.fingerprint = digest[:16]
        try:
            self._network = Classifier.of(safetensors.torch.load(content))
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = one_line(error)
            raise UserError(f"{path}: not the weights of a Classifier ({reason}); {remedy}") from error
        self._network.eval().requires_grad_(False)
        self.dim, self.shape = self._network.dim, self._network.shape
        self._form = f"[n, {', '.join(map(str, self.shape))}]"

    def takes(self, spec: ImageSpec) -> bool:
        return spec.shape == self.shape

    def _fits(self, shape: Sequence[int]) -> bool:
        return tuple(shape) == self.shape

    def _features(self, images: Tensor) -> Tensor:
        return self._network.features(images)
