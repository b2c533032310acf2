"""Batches that are a function of (seed, share, step): whoever asks, and after whatever pause."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from threading import Thread
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from carv_distill.carv import stream
from carv_distill.errors import UserError

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, C, H, W], or clips [n, F, 3, H, W], in [-1, 1], and labels int64 [n]."""


class BatchSet(Protocol):
    """What :class:`~.sets.ImageSet` and :class:`~.clips.sets.ClipSet` have in common."""

    @property
    def decodes(self) -> bool: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Batch: ...


def step_loader(
    images: BatchSet, batch: int, seed: int, key: str, shares: Sequence[int], start: int, workers: int
) -> DataLoader[Batch]:
    """Endless batches of len(shares)·batch images, one for each step from `start` on.

    What is in them depends on (seed, key, share, step) alone, so neither a resume nor the number of processes
    changes it: the first draw of ``stream(seed, share, step, key)``, uniform with replacement.

    Args:
        batch: images of one share.
        seed: names the random streams, with `key`.
        shares: which shares to draw, joined in this order; a rank's own number, as a rule.
        workers: processes that decode files ahead; sets in memory use none.
    """
    return _loader(images, _Steps(len(images), batch, seed, key, shares, start), workers)


def ordered_loader(images: BatchSet, batches: Sequence[range], workers: int) -> DataLoader[Batch]:
    """The images of these numbers, a batch for each range."""
    return _loader(images, [torch.arange(b.start, b.stop, b.step) for b in batches], workers)


class _Steps:
    """The images of each step, int64, for ever; begun again, from `start`."""

    def __init__(self, size: int, batch: int, seed: int, key: str, shares: Sequence[int], start: int) -> None:
        self.size, self.batch, self.seed, self.key = size, batch, seed, key
        self.shares, self.start = shares, start

    def __iter__(self) -> Iterator[Tensor]:
        for step in count(self.start):
            streams = (stream(self.seed, share, step, self.key) for share in self.shares)
            yield torch.cat([torch.randint(self.size, (self.batch,), generator=s) for s in streams])


class _Batches(Dataset[Any]):
    """A data set whose items are batches."""

    def __init__(self, images: BatchSet) -> None:
        self.images = images

    def __getitem__(self, indices: Tensor) -> Batch | str:
        try:
            return self.images.batch(indices)
        except UserError as error:
            if get_worker_info() is None:
                raise
            return str(error)  # raised in a worker, it would reach the user as a worker's traceback


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for item in super().__iter__():
            if isinstance(item, str):
                raise UserError(item)
            yield item


def _loader(images: BatchSet, sampler: Iterable[Tensor], workers: int) -> DataLoader[Batch]:
    return _Loader(
        _Batches(images),
        sampler=sampler,
        batch_size=None,
        collate_fn=_unchanged,
        worker_init_fn=_leave_signals_to_parent,
        num_workers=workers if images.decodes else 0,
        pin_memory=torch.cuda.is_available(),
    )


def _leave_signals_to_parent(worker: int) -> None:
    """A scheduler or terminal signals all processes of a run; its main one finishes the update, for which it
    needs this one. A second SIGTERM ends it: multiprocessing sends one as the program ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_at_the_second, daemon=True).start()  # a handler would wait for a decoder that hangs


def _end_at_the_second() -> None:
    for _ in range(2):
        signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)


def _unchanged(item: Any) -> Any:
    return item
