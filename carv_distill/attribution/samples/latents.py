"""What identifies tensors, and what is encoded once of captioned images and clips."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.data.batches import BatchSet
from carv_distill.data.latents import BATCH, LatentCache
from carv_distill.progress import progress
from carv_distill.teachers.pipelines.codecs import Codec

from .motion import Motion

log = logging.getLogger(__name__)

SHARD = 64
"""Images of a shard: what is lost, at most, where the work ends at once. A clip takes as long as dozens, and
is a shard of its own."""


def digest(tensors: Iterable[Tensor], words: str = "") -> str:
    """Sixteen hexadecimal digits of words and of the tensors' bytes, types and shapes (BLAKE2b)."""
    hashed = hashlib.blake2b(words.encode(), digest_size=8)
    for tensor in tensors:
        t = tensor.detach().cpu().contiguous()
        hashed.update(f"{t.dtype}{list(t.shape)}".encode())
        hashed.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


class EncodedSet:
    """Mean latents of a set, and how much moves at each, of each encoded once, when it is first wanted.

    Args:
        data: images [n, 3, H, W] or clips [n, F, 3, H, W].
        codec: of its teacher.
        shape: of one x.
        motion: of clips, where it is wanted.
        folder: of all caches; this one has a folder of its own in it.
        key: of the data and the autoencoder.
        device: where it is encoded.
        workers: processes that decode files meanwhile.
    """

    def __init__(
        self,
        data: BatchSet,
        codec: Codec,
        shape: Sequence[int],
        motion: Motion | None,
        folder: Path,
        key: str,
        device: str,
        workers: int,
    ) -> None:
        self.data, self.codec, self.shape, self.motion = data, codec, tuple(shape), motion
        self.device, self.workers = device, workers
        names = ("mean",) if motion is None else ("mean", "motion")
        shard = 1 if len(self.shape) == 4 else SHARD
        kept = key = f"{key} mean {'' if motion is None else motion.kind}"
        if shard == 1:  # older folders have other shards
            kept += " each"
        place = folder / hashlib.blake2b(kept.encode(), digest_size=16).hexdigest()
        self.cache = LatentCache(place, key, len(data), shard, names)
        self._there: set[int] = set()

    def encode(self, numbers: Tensor) -> None:
        """Makes what is missing of these, int64 [n].

        Raises:
            UserError: a file that cannot be read, latents that are not finite, or no room on the disk; what
                was encoded stays.
        """
        cache = self.cache
        wanted = [shard for shard in cache.shards(numbers.tolist()) if shard not in self._there]
        if not wanted:
            return
        missing = sum(len(cache.images(shard)) for shard in cache.missing(wanted))
        if missing:
            log.info("latents: encoding %d of %d into %s", missing, len(self.data), cache.folder)
            rows = self.codec.rows(torch.empty(1, *self.shape, device="meta"))
            # of several processes the first alone says what is done
            with progress("latents", missing, log.isEnabledFor(logging.INFO)) as advance:
                cache.fill(self.data, self._kept, self.workers, advance, min(rows, BATCH), wanted)
        self._there.update(wanted)

    def _kept(self, pictures: Tensor) -> list[Tensor]:
        x = encoded(self.codec, pictures.to(self.device))
        return [x] if self.motion is None else [x, self.motion.magnitude(pictures, x.shape[2:])]

    def read(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """x [n, …] and the weights of its positions, int64 [n] → float32; what is missing is made first, see
        :meth:`encode`."""
        self.encode(numbers)
        parts = [torch.stack(rows) for rows in zip(*map(self.cache.read, numbers.tolist()), strict=True)]
        x = parts[0].float()
        return x, None if self.motion is None else self.motion.weights(parts[1].float())


@torch.no_grad()
def encoded(codec: Codec, pictures: Tensor) -> Tensor:
    """The posterior's mean of images [n, 3, H, W], or of clips [n, F, 3, H, W]."""
    mean, _ = codec.posterior(pictures.movedim(2, 1) if pictures.ndim == 5 else pictures)
    return mean
