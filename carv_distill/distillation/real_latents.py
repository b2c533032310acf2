"""Latents of the images that a discriminator learns from, encoded once for all runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.data.batches import Batch, step_loader
from carv_distill.data.captioned import CaptionedSet
from carv_distill.data.latents import BATCH, CachedLatents, LatentCache
from carv_distill.progress import progress
from carv_distill.teachers.pipelines.codecs import ImageLatents

log = logging.getLogger(__name__)


class RealLatents:
    """Mean and deviation of the latents of each update's real images, [n, 2c, h, w], as
    :func:`~carv_distill.data.latents.draw_latents` takes them.

    They are those of the images that :func:`~carv_distill.data.batches.step_loader` would give.

    Args:
        data: as it is: captioned images are never mirrored.
        folder: of all caches; this one has a folder of its own in it.
        autoencoder: what identifies it and its precision.
        latent: shape of one x, [c, h, w].
        batch: images of a share and update.
        seed: of their choice.
        workers: processes that decode files, while they are encoded.
    """

    def __init__(
        self,
        data: CaptionedSet,
        folder: Path,
        autoencoder: str,
        latent: Sequence[int],
        batch: int,
        seed: int,
        workers: int,
    ) -> None:
        self.data, self.batch, self.seed, self.workers = data, batch, seed, workers
        channels, *sides = latent
        self.shape = (2 * channels, *sides)
        key = f"{data.fingerprint()} {autoencoder}"
        place = folder / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        self.cache = LatentCache(place, key, len(data))

    def fill(self, codec: ImageLatents, device: torch.device | str = "cpu") -> None:
        """Encodes what the cache lacks, on a device to which the codec goes meanwhile.

        Raises:
            UserError: an image that cannot be read, latents that are not finite, or no room on the disk.
        """
        missing = sum(len(self.cache.images(number)) for number in self.cache.missing())
        if not missing:
            return
        log.info("latents: encoding %d of %d images into %s", missing, len(self.data), self.cache.folder)
        home = next(codec.parameters()).device
        codec.to(device)
        c, *sides = self.shape
        rows = codec.rows(torch.empty(1, c // 2, *sides, device="meta"))

        def encode(images: Tensor) -> tuple[Tensor, Tensor]:
            return codec.posterior(images.to(device))

        # of several processes the first alone says what is done
        with progress("latents", missing, log.isEnabledFor(logging.INFO)) as advance:
            self.cache.fill(self.data, encode, self.workers, advance, min(rows, BATCH))
        codec.to(home)

    def __call__(self, shares: Sequence[int], start: int) -> Iterable[Batch]:
        """For each update from `start` on, moments and labels of all these shares, joined."""
        latents = CachedLatents(self.cache, self.data.labels, self.data.spec)
        return step_loader(latents, self.batch, self.seed, "real", shares, start, workers=self.workers)
