"""Latents of a set of images or clips, encoded once and kept in shards."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from carv_distill.errors import UserError, one_line
from carv_distill.files import atomic_file

from .batches import BatchSet, ordered_loader
from .sets import ImageSpec

Encode = Callable[[Tensor], Sequence[Tensor]]
"""Images or clips [n, …] in [-1, 1] → what is kept of them, n rows each, as mean and standard deviation of
their latents."""
MOMENTS = ("mean", "std")
SHARD = 1024
"""Images of a shard: what is lost, at most, where the work ends at once."""
BATCH = 16
CLAIMED = 16
"""Shards, at most, that a process is at: each is an open file, and others shall find some left."""
_OPEN = 256
"""Shards that a process has open at a time."""


class LatentCache:
    """A folder of shards, each a safetensors file of tensors of consecutive images: by default `mean` and
    `std` of their latents.

    A shard takes its name once it is whole, so that work which ended in the middle goes on with those that
    are missing. It says in its header what it is of.

    Args:
        key: of the images and the network that encodes them; see :func:`~carv_distill.digests.content_digest`
            and :meth:`~.captioned.CaptionedImages.fingerprint`.
        count: N, images of the set.
        shard: images of a shard.
        names: of the tensors.
    """

    def __init__(
        self, folder: Path, key: str, count: int, shard: int = SHARD, names: Sequence[str] = MOMENTS
    ) -> None:
        self.folder, self.key, self.count, self.shard = folder, key, count, shard
        self.names = tuple(names)
        self._open = lru_cache(_OPEN)(_open)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = lru_cache(_OPEN)(_open)

    def __len__(self) -> int:
        """Shards of the whole."""
        return -(-self.count // self.shard)

    def path(self, number: int) -> Path:
        """Of a shard."""
        return self.folder / f"latents-{number:05d}.safetensors"

    def images(self, number: int) -> range:
        """Which images a shard is of."""
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def shards(self, images: Iterable[int]) -> list[int]:
        """In which these images are, in order."""
        return sorted({number // self.shard for number in images})

    def missing(self, wanted: Iterable[int] | None = None) -> list[int]:
        """Shards that are not there, or not whole, as a copy may be that was broken off.

        Args:
            wanted: shards that are looked for; None: all.

        Raises:
            UserError: a shard of other images, another network or other shards.
        """
        looked_for = range(len(self)) if wanted is None else sorted(wanted)
        there, numbers = set(), {self.path(number): number for number in looked_for}
        every = self.folder.glob("latents-*.safetensors")
        for path in sorted(every) if wanted is None else filter(Path.is_file, numbers):
            header = _header(path, self.names)
            if header is None:
                continue
            said, shapes = header
            if said != self._about or path not in numbers:
                raise UserError(
                    f"{path} holds latents of other images or another autoencoder, or others of them "
                    f"together; give another folder, or remove the latents in {self.folder}"
                )
            if shapes[0][0] == len(self.images(numbers[path])):
                there.add(numbers[path])
        return [number for number in looked_for if number not in there]

    def fill(
        self,
        images: BatchSet,
        encode: Encode,
        workers: int = 0,
        progress: Callable[[int], None] | None = None,
        batch: int = BATCH,
        wanted: Sequence[int] | None = None,
    ) -> None:
        """Encodes what is missing. Processes that do so at the same time share the work, whether they know of
        each other or not: each takes shards that no other is at, and waits until all are there.

        Args:
            workers: processes that decode files ahead.
            progress: called after each batch with its number of images.
            batch: images that are encoded at a time.
            wanted: shards that are looked for; None: all.

        Raises:
            UserError: shards of other images or another network, an image that cannot be read, latents that
                are not finite, or no room on the disk; shards that are whole stay.
        """
        for timeout in (0, -1):  # first what nobody is at, then what others may have left unfinished
            missing, together = self.missing(wanted), min(max(1, SHARD // self.shard), CLAIMED)
            for start in range(0, len(missing), together):
                with ExitStack() as claims:
                    mine = [
                        number
                        for number in missing[start : start + together]
                        if claims.enter_context(self._claim(number, timeout)) and not self._is_whole(number)
                    ]
                    self._make(images, encode, mine, workers, progress, batch, len(missing) - start)

    def _make(
        self,
        images: BatchSet,
        encode: Encode,
        shards: Sequence[int],
        workers: int,
        progress: Callable[[int], None] | None,
        batch: int,
        left: int,
    ) -> None:
        """Shards that this process has claimed, each written as it is whole; `left` are still to be written,
        these and others."""
        parts = [
            range(i, min(i + batch, self.images(number).stop))
            for number in shards
            for i in self.images(number)[::batch]
        ]
        rows: list[list[Tensor]] = []
        done = 0
        for part, (x, _) in zip(parts, ordered_loader(images, parts, workers), strict=True):
            rows.append(_encoded(encode, x, part))
            if progress is not None:
                progress(len(part))
            if part.stop == self.images(shards[done]).stop:
                self._write(shards[done], [torch.cat(t) for t in zip(*rows, strict=True)], left - done)
                rows, done = [], done + 1

    def shapes(self) -> list[tuple[int, ...]]:
        """Of what is kept of one image, by name.

        Raises:
            UserError: something is missing, or of other images.
        """
        if missing := self.missing():
            raise UserError(f"{self.path(missing[0])} is missing or damaged; encode the images again")
        header = _header(self.path(0), self.names)
        assert header is not None
        return [shape[1:] for shape in header[1]]

    def read(self, number: int) -> list[Tensor]:
        """What is kept of one image, by name; by memory map.

        Raises:
            UserError: the file cannot be read.
        """
        shard, row = divmod(number, self.shard)
        path = self.path(shard)
        try:
            return [part[row] for part in self._open(path, self.names)]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({one_line(error)})") from error

    @contextmanager
    def _claim(self, number: int, timeout: float) -> Iterator[bool]:
        """A shard for this process alone, or, after so many seconds (-1: never), the word that it is not."""
        place = self.folder / ".locks"
        lock = FileLock(place / f"{number:05d}", timeout=timeout)
        try:
            place.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise UserError(f"{place} cannot be written ({error.strerror})") from error
        try:
            yield True
        finally:
            lock.release()

    def _is_whole(self, number: int) -> bool:
        path = self.path(number)
        header = _header(path, self.names) if path.is_file() else None
        return header is not None and header[1][0][0] == len(self.images(number))

    @property
    def _about(self) -> str:
        # one entry: several would stand in the header in any order, and equal shards would differ
        return f"{self.key}, {self.count} images by {self.shard}"

    def _write(self, number: int, tensors: Sequence[Tensor], left: int) -> None:
        named = {name: t.contiguous() for name, t in zip(self.names, tensors, strict=True)}
        content = save(named, {"key": self._about})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < left * len(content):  # said now, not hours later
                raise OSError(
                    errno.ENOSPC, f"{left} shards need {left * len(content):,} bytes, {free:,} are free"
                )
            with atomic_file(self.path(number)) as file:
                file.write(content)
        except OSError as error:
            raise UserError(
                f"{self.path(number)} cannot be written ({error.strerror}); the latents before it stay, and "
                "the next start goes on after them"
            ) from error


class CachedLatents:
    """The latents of a set of images as an :class:`~.sets.ImageSet`, read by memory map.

    :meth:`batch` gives both moments, [n, 2c, h, w], mean before deviation, for :func:`draw_latents`:
    `spec.channels` is 2c.

    Args:
        labels: int64 [N], as those of the images.
        spec: of the images.

    Raises:
        UserError: latents are missing, or of other images.
    """

    decodes = True

    def __init__(self, cache: LatentCache, labels: Tensor, spec: ImageSpec) -> None:
        self.cache, self.labels = cache, labels
        channels, height, _ = cache.shapes()[0]
        self.spec = ImageSpec(spec.name, 2 * channels, height, spec.classes)

    def __len__(self) -> int:
        return self.cache.count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        moments = torch.stack([torch.cat(self.cache.read(int(i))) for i in indices])
        return moments.float(), self.labels[indices]


def draw_latents(moments: Tensor, noise: Tensor) -> Tensor:
    """mean + std · noise of moments [n, 2c, h, w] and noise [n, c, h, w]: a draw from what the autoencoder
    says of each image."""
    mean, std = moments.chunk(2, dim=1)
    return mean + std * noise


def _open(path: Path, names: Sequence[str]) -> list[Any]:
    """Tensors, of which rows are read as they are wanted."""
    with safe_open(path, "pt") as file:
        return [file.get_slice(name) for name in names]


def _header(path: Path, names: Sequence[str]) -> tuple[str | None, list[tuple[int, ...]]] | None:
    """What a shard says that it is of, and the shapes of its tensors; None where it is not whole."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            about = (file.metadata() or {}).get("key")
    except SafetensorError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error
    whole = shapes.keys() == set(names) and len({shape[:1] for shape in shapes.values()}) == 1
    return (about, [shapes[name] for name in names]) if whole and all(shapes.values()) else None


@torch.no_grad()
def _encoded(encode: Encode, images: Tensor, part: range) -> list[Tensor]:
    tensors = [tensor.cpu() for tensor in encode(images)]
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise UserError(
            f"latents of images {part.start} to {part.stop - 1} are not finite; an autoencoder that "
            "overflows in float16 needs float32 or bfloat16"
        )
    return tensors
