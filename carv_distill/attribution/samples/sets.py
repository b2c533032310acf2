"""The samples of an attribution: a training set, wherever it lies, and some of it or others in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from carv_distill.data.batches import BatchSet
from carv_distill.data.captioned import CaptionedFiles
from carv_distill.data.clips.sets import SomeClips
from carv_distill.data.sets import Some, Unlabelled
from carv_distill.data.solids import PromptedImages
from carv_distill.data.stored import StoredImages

from .batch import SampleBatch
from .latents import digest


@dataclass(frozen=True)
class Samples:
    """Samples in memory, as pictures and as a model takes them."""

    pictures: Tensor
    """Images [n, C, H, W] or clips [n, F, 3, H, W] in [−1, 1]."""
    words: list[str]
    """Label or prompt of each."""
    batch: SampleBatch
    numbers: Tensor | None = None
    """Of training samples, their numbers in the whole data set, [n]."""
    names: Sequence[str] = ()
    """Of queries, what each is called: its file, "#3" of the data set, or "seed 0"."""

    def __len__(self) -> int:
        return len(self.batch)

    def title(self, n: int) -> str:
        """Name and words of a query, as "#3 (7)"."""
        return f"{self.names[n]} ({self.words[n]})" if self.words[n] else self.names[n]


@dataclass(frozen=True)
class TrainingSet:
    """Training samples, read when they are wanted."""

    words: Sequence[str]
    """Label or prompt of each."""
    names: Sequence[str]
    """Of each: its file's, or #3."""
    shape: tuple[int, ...]
    """Of one x."""
    batch: Callable[[Tensor], SampleBatch]
    """Numbers, int64 [n] → the samples as the model takes them, on the CPU."""
    pictures: Callable[[Tensor], Tensor]
    """Numbers → images or clips, as :class:`Samples` has them."""
    digest: str
    """Of all that a feature depends on."""
    numbers: Tensor
    """In the whole data set, of which `data.only` may have taken some, int64 [N]."""
    encode: Callable[[Tensor], None] = field(default=lambda numbers: None)
    """Makes what `batch` reads of these, where that takes long; else `batch` does so."""

    def __len__(self) -> int:
        return len(self.words)

    def at(self, numbers: Sequence[int]) -> Samples:
        """Those at some places of this set, in memory."""
        i = torch.tensor(numbers, dtype=torch.long)
        words = [self.words[n] for n in numbers]
        names = [self.names[n] for n in numbers]
        return Samples(self.pictures(i), words, self.batch(i), self.numbers[i], names)

    def some(self, numbers: Sequence[int]) -> TrainingSet:
        """A set of those at some places of this one."""
        i = torch.tensor(numbers, dtype=torch.long)
        return TrainingSet(
            [self.words[n] for n in numbers],
            [self.names[n] for n in numbers],
            self.shape,
            lambda rows: self.batch(i[rows]),
            lambda rows: self.pictures(i[rows]),
            digest([i], self.digest),
            self.numbers[i],
            lambda rows: self.encode(i[rows]),
        )


def names_of(data: BatchSet) -> list[str]:
    """Of each sample: its file's, or #3, its number in the whole set."""
    return _files_of(data) or [f"#{number}" for number in numbers_of(data).tolist()]


def numbers_of(data: BatchSet) -> Tensor:
    """Of each sample in the whole set that these may be some of, as `data.only` is given them, int64 [N]."""
    if isinstance(data, Some | SomeClips):
        return numbers_of(data.plain)[data.numbers]
    if isinstance(data, Unlabelled):
        return numbers_of(data.plain)
    if isinstance(data, PromptedImages) and data.numbers is not None:
        return data.numbers
    return torch.arange(len(data))


def _files_of(data: BatchSet) -> list[str]:
    """Empty where they have none."""
    if isinstance(data, StoredImages | CaptionedFiles):
        return [data.storage.name(number) for number in range(len(data))]
    if isinstance(data, Unlabelled):
        return _files_of(data.plain)
    if isinstance(data, Some | SomeClips) and (files := _files_of(data.plain)):
        return [files[number] for number in data.numbers.tolist()]
    return []


def held(samples: Samples, names: Sequence[str], numbers: Tensor) -> TrainingSet:
    """A training set that is in memory.

    Args:
        numbers: in the whole data set, int64 [N].
    """
    return TrainingSet(
        samples.words,
        names,
        tuple(samples.batch.x.shape[1:]),
        samples.batch.__getitem__,
        samples.pictures.__getitem__,
        digest(samples.batch.tensors()),
        numbers,
    )
