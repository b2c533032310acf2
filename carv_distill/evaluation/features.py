"""Feature extractors: bytes in, a vector per image out."""

import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from carv_distill.data.spec import ImageSpec
from carv_distill.errors import UserError

from .classifier import DigitsClassifier

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""Beginning of the SHA-256 of the published file, which has it in its name."""
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"

log = logging.getLogger(__name__)


class FeatureExtractor(Protocol):
    """A frozen network that maps images to features.

    Implementations are plain objects, not modules: as the child of a LightningModule the network would enter
    its checkpoints and be cast by `.to(bfloat16)`.

    Attributes:
        name: what a report calls the extractor.
        dim: D, length of a feature vector.
        fingerprint: first 16 hexadecimal digits of the SHA-256 of the weights file.
    """

    name: str
    dim: int
    fingerprint: str

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Features float32 [n, D] of images uint8 [n, C, H, W], on the extractor's device."""
        ...

    def takes(self, spec: ImageSpec) -> bool:
        """Whether it is for images of this shape."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move the network to `device`; returns the extractor itself."""
        ...


def extract_features(
    extractor: FeatureExtractor,
    images_uint8: Tensor,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Features of many images, float64 [N, D] on the CPU.

    Args:
        images_uint8: uint8 [N, C, H, W], on any device.
        progress: called after each batch with the number of images in it.
    """
    features = []
    for batch in images_uint8.split(batch_size):
        features.append(extractor(batch).to("cpu", torch.float64))
        if progress is not None:
            progress(len(batch))
    return torch.cat(features)


def _read(path: Path, remedy: str) -> tuple[bytes, str]:
    """The bytes of `path` and their fingerprint: what is hashed is exactly what is loaded."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights ({error.strerror}); {remedy}") from error
    return content, hashlib.sha256(content).hexdigest()[:16]


def _check_images(images: Tensor, shape: str, fits: bool) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or not fits:
        found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise UserError(f"images: found {found}; this feature extractor takes uint8 {shape}")


class DigitsFeatures:
    """The 64 penultimate activations of :class:`DigitsClassifier`, for uint8 images [n, 1, 8, 8].

    Args:
        folder: holds `model.safetensors`, as `python -m carv_distill.evaluation.classifier` writes it.

    Raises:
        UserError: no such folder or file, a corrupt file, or tensors of another network.
    """

    name = "digits"
    dim = DigitsClassifier.dim

    def __init__(self, folder: Path | str) -> None:
        path = Path(folder) / "model.safetensors"
        remedy = f"make them: python -m carv_distill.evaluation.classifier --out {folder}"
        content, self.fingerprint = _read(path, remedy)
        # on the meta device, because drawing initial weights would advance the caller's random state
        with torch.device("meta"):
            self._network = DigitsClassifier()
        try:
            self._network.load_state_dict(safetensors.torch.load(content), assign=True)
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not the weights of DigitsClassifier ({reason}); {remedy}") from error
        self._network.eval().requires_grad_(False)

    def takes(self, spec: ImageSpec) -> bool:
        """Grey images of 8×8."""
        return spec.shape == (1, 8, 8)

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Features float32 [n, 64] of uint8 [n, 1, 8, 8]; UserError for images of another shape or dtype."""
        _check_images(images_uint8, "[n, 1, 8, 8]", images_uint8.shape[1:] == (1, 8, 8))
        device = self._network.head.weight.device
        # a trainer's bf16 autocast would otherwise reach in here and change the metric
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._network.features(images_uint8.to(device))

    def to(self, device: torch.device | str) -> Self:
        """Move the network to `device`; returns the extractor itself."""
        self._network.to(device)
        return self


class InceptionFeatures:
    """The 2048 pooled activations of Inception-v3 (2015-12-05), torch-fidelity's port of the FID network.

    Args:
        weights_path: the `.pth` state dict published with torch-fidelity. None looks in torch hub's cache.
            Nothing is ever downloaded.
        key: the configuration key that gives `weights_path`, for the messages.

    Raises:
        UserError: no file, a file that `torch.load(weights_only=True)` refuses, or another network's tensors.

    Source:
        Heusel et al. (2017) for the metric; Obukhov et al., torch-fidelity, for the network and weights.
    """

    name = "inception"
    dim = 2048

    def __init__(self, weights_path: Path | str | None = None, *, key: str = "fid.weights") -> None:
        if weights_path is None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        else:
            path = Path(weights_path)
        remedy = f"fetch {INCEPTION_URL} and put it there, or give its path as {key}"
        content, self.fingerprint = _read(path, remedy)
        digest = hashlib.sha256(content).hexdigest()
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
                network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=checked
                )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{path}: not the weights of Inception-v3 ({reason}); {remedy}") from error
        self._network: torch.nn.Module = network
        if not digest.startswith(INCEPTION_SHA256):
            log.warning(
                "%s: its SHA-256 is %s, that of the published weights begins with %s; these FIDs cannot be "
                "compared with published ones",
                path,
                digest,
                INCEPTION_SHA256,
            )

    def takes(self, spec: ImageSpec) -> bool:
        """Grey or colour images of any size."""
        return spec.channels in (1, 3)

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Features float32 [n, 2048] of uint8 [n, 1 or 3, H, W]; grey is repeated to three channels."""
        fits = images_uint8.ndim == 4 and images_uint8.shape[1] in (1, 3)
        _check_images(images_uint8, "[n, 1 or 3, H, W]", fits)
        device = next(self._network.parameters()).device
        images = images_uint8.to(device).expand(-1, 3, -1, -1)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._network(images)[0]

    def to(self, device: torch.device | str) -> Self:
        """Move the network to `device`; returns the extractor itself."""
        self._network.to(device)
        return self


_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What torch's unpickler raises at bytes that are none of its own: it takes them for instructions."""


def _load_tensors(content: bytes, path: Path, remedy: str) -> dict[str, Tensor]:
    """A state dict from bytes, by the unpickler that runs no code."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(f"{path}: torch.load(weights_only=True) refuses this file; {remedy}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: found {type(state).__name__}, expected a state dict of tensors; {remedy}")
    return state
