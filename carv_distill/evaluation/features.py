"""Feature extractors: bytes in, a vector per image out."""

from __future__ import annotations

import hashlib
import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from carv_distill.data.sets import ImageSpec
from carv_distill.errors import UserError, one_line
from carv_distill.files import shipped
from carv_distill.teachers.edm.unpickle import MALFORMED
from carv_distill.teachers.trial import try_call

from .options import FEATURES

DIGITS_FEATURES = shipped("checkpoints") / "digits-features"
SOLIDS_CLIP = shipped("checkpoints") / "shapes-teacher/clip"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""Beginning of the SHA-256 of the published file, which has it in its name."""
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"

log = logging.getLogger(__name__)


class FeatureExtractor(ABC):
    """A frozen network that maps images to features.

    A plain object, not a module: as the child of a LightningModule the network would enter its checkpoints
    and be cast by `.to(bfloat16)`.
    """

    name: str
    """What a report calls the extractor."""
    dim: int
    """D, length of a feature vector."""
    shape: tuple[int, int, int] = (1, 8, 8)
    """Of images that it takes: the only ones, or one of many."""
    fingerprint: str
    """The first 16 hexadecimal digits of a SHA-256 of the weights."""
    _network: nn.Module
    _form = "[n, 1 or 3, H, W]"

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Features float32 [n, D] of images uint8 [n, C, H, W], on the extractor's device.

        Raises:
            UserError: images of another shape or dtype.
        """
        images = images_uint8
        if images.dtype != torch.uint8 or images.ndim != 4 or not self._fits(images.shape[1:]):
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise UserError(f"images: found {found}; this feature extractor takes uint8 {self._form}")
        device = next(self._network.parameters()).device
        # a trainer's bf16 autocast would otherwise reach in here and change the metric
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._features(images.to(device))

    def takes(self, spec: ImageSpec) -> bool:
        """Whether it is for images of this shape."""
        return self._fits(spec.shape)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to `device`; returns the extractor itself."""
        self._network.to(device)
        return self

    def _fits(self, shape: Sequence[int]) -> bool:
        """Grey or colour images of any size."""
        return shape[0] in (1, 3)

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor: ...


def load_extractor(
    features: str, weights: str | None = None, *, key: str = "fid.weights"
) -> FeatureExtractor:
    """The extractor called `features`.

    Args:
        weights: folder of a classifier (None: for digits the shipped one), file of the Inception weights
            (None: torch hub's), or folder or hub id of a CLIP model (None: the one that knows the solids).
        key: what gives `weights`, for the messages.

    Raises:
        UserError: no such features, no weights for them, or a network that does not give features of a grey
            picture.
    """
    from .classifier import COMMAND, ClassifierFeatures

    extractor: FeatureExtractor
    match features:
        case "digits":
            extractor = ClassifierFeatures(weights or DIGITS_FEATURES, "digits")
        case "classifier":
            if weights is None:
                raise UserError(f"{key}: features classifier need the folder of one; {COMMAND} makes it")
            extractor = ClassifierFeatures(weights)
        case "inception":
            extractor = InceptionFeatures(weights, key=key)
        case "clip":
            from .clip import ClipFeatures

            extractor = ClipFeatures(weights or SOLIDS_CLIP, key=key)
        case _:
            raise UserError(f"fid.features: {features!r} is not one of {', '.join(FEATURES)}")
    grey = torch.full((1, *extractor.shape), 128, dtype=torch.uint8)
    try_call(lambda: extractor(grey), (1, extractor.dim), f"{key}: the features {features} of a picture")
    return extractor


class InceptionFeatures(FeatureExtractor):
    """The 2048 pooled activations of Inception-v3 (2015-12-05), torch-fidelity's port of the FID network, for
    uint8 images [n, 1 or 3, H, W]; grey is repeated to three channels.

    Args:
        weights_path: the `.pth` state dict published with torch-fidelity. None looks in torch hub's cache.
            Nothing is ever downloaded.
        key: the configuration key that gives `weights_path`, for the messages.

    Raises:
        UserError: another network's tensors.

    Source: Heusel et al. (2017) for the metric; Obukhov et al., torch-fidelity, for network and weights.
    """

    name = "inception"
    dim = 2048

    def __init__(self, weights_path: Path | str | None = None, *, key: str = "fid.weights") -> None:
        hub = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        path = hub if weights_path is None else Path(weights_path)
        remedy = f"fetch {INCEPTION_URL} and put it there, or give its path as {key}"
        content, digest = read_weights(path, remedy)
        self.fingerprint = digest[:16]
        remedy = f"its SHA-256 is {digest}, the published one begins with {INCEPTION_SHA256}; {remedy}"
        state = _load_tensors(content, path, remedy)

        # imported here: torch-fidelity takes seconds to import, and digits do without it
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity reads its weights with weights_only=False, which executes pickles. It is given the
        # checked tensors, re-saved in memory, and never sees the file.
        checked = io.BytesIO()
        torch.save(state, checked)
        checked.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # it draws initial weights before it loads
                self._network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=checked
                )
        except RuntimeError as error:
            reason = one_line(error, 120)
            raise UserError(f"{path}: not the weights of Inception-v3 ({reason}); {remedy}") from error
        if not digest.startswith(INCEPTION_SHA256):
            log.warning(
                "%s: its SHA-256 is %s, that of the published weights begins with %s; these FIDs cannot be "
                "compared with published ones",
                path,
                digest,
                INCEPTION_SHA256,
            )

    def _features(self, images: Tensor) -> Tensor:
        return self._network(images.expand(-1, 3, -1, -1))[0]


def read_weights(path: Path, remedy: str) -> tuple[bytes, str]:
    """The bytes of `path` and their SHA-256: what is hashed is exactly what is loaded.

    Raises:
        UserError: it cannot be read; the message ends with the remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights ({error.strerror}); {remedy}") from error
    return content, hashlib.sha256(content).hexdigest()


def _load_tensors(content: bytes, path: Path, remedy: str) -> dict[str, Tensor]:
    """A state dict from bytes, by the unpickler that runs no code."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MALFORMED as error:
        raise UserError(f"{path}: torch.load(weights_only=True) refuses this file; {remedy}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: found {type(state).__name__}, expected a state dict of tensors; {remedy}")
    return state
