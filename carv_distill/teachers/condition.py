"""What a network is told beside x and the noise level: class labels, or the embeddings of prompts.

Both have a row for each row of x, and rows are picked, joined and repeated alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Condition:
    """Prompts as text-to-image and text-to-video networks take them: tensors of n rows each."""

    embeddings: Tensor
    """Of the tokens, [n, L, D]."""
    mask: Tensor | None = None
    """Which tokens count, [n, L]; None: all of them."""
    pooled: Tensor | None = None
    """One embedding of the whole prompt, [n, P]."""
    time_ids: Tensor | None = None
    """Original height and width, top and left of the crop, target height and width in pixels, [n, 6]: SDXL's,
    and PixArt's, which is told the last two."""
    guidance: Tensor | None = None
    """The scale that a guidance-distilled network imitates, [n]; Flux's."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same change to each tensor."""
        parts: dict[str, Any] = {spec.name: getattr(self, spec.name) for spec in fields(Condition)}
        changed: dict[str, Any] = {n: None if part is None else change(part) for n, part in parts.items()}
        return Condition(**changed)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: Tensor | slice | int) -> Condition:
        """Some rows, in any order and as often as wanted; of a number, that row without the row axis."""
        return self.map(lambda part: part[rows])

    def to(self, *where: torch.device | torch.dtype | str) -> Condition:
        """On a device, or its floating-point tensors in another precision."""
        types = [w for w in where if isinstance(w, torch.dtype)]
        places = [w for w in where if not isinstance(w, torch.dtype)]

        def move(part: Tensor) -> Tensor:
            part = part.to(places[0]) if places else part
            return part.to(types[0]) if types and part.is_floating_point() else part

        return self.map(move)

    @property
    def bytes(self) -> int:
        """Of all its tensors."""
        return sum(part.nbytes for part in tensors(self))


torch.export.register_dataclass(Condition)  # so that vmap maps over its rows

Cond = Tensor | Condition | None
"""Class labels [n], embeddings of prompts, or nothing for an unconditional network."""


def joined(first: Tensor | Condition, second: Tensor | Condition) -> Tensor | Condition:
    """The rows of one condition, then those of another of its kind.

    Raises:
        TypeError: the two are not of one kind.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    if not isinstance(first, Condition) or not isinstance(second, Condition):
        raise TypeError("a label and a prompt do not go into one condition")
    parts: dict[str, Any] = {}
    for spec in fields(Condition):
        a, b = getattr(first, spec.name), getattr(second, spec.name)
        if (a is None) != (b is None):
            raise TypeError(f"one condition has {spec.name}, the other has none")
        parts[spec.name] = None if a is None else torch.cat([a, b])
    return Condition(**parts)


def interpolated(first: Condition, second: Condition, share: Tensor) -> Condition:
    """(1 − share) of one condition and share of another, row by row, share [n] in [0, 1]; tokens count where
    they count in either."""
    parts: dict[str, Any] = {}
    for spec in fields(Condition):
        a, b = getattr(first, spec.name), getattr(second, spec.name)
        if a is None:
            parts[spec.name] = None
        elif a.is_floating_point():
            parts[spec.name] = torch.lerp(a, b, share.to(a.dtype).view(-1, *[1] * (a.ndim - 1)))
        else:
            parts[spec.name] = torch.maximum(a, b)
    return Condition(**parts)


def tensors(cond: Cond) -> list[Tensor]:
    """All that a condition is made of."""
    if cond is None or isinstance(cond, Tensor):
        return [] if cond is None else [cond]
    return [part for spec in fields(cond) if (part := getattr(cond, spec.name)) is not None]


def repeated(one: Tensor | Condition, count: int) -> Tensor | Condition:
    """`count` rows of one condition without a row axis, a label [] or a prompt's tensors; not copied."""
    if isinstance(one, Condition):
        return one.map(lambda part: part.expand(count, *part.shape))
    return one.expand(count, *one.shape)


class HeldCondition(nn.Module):
    """A condition that moves with the module it belongs to, and is no part of a checkpoint."""

    def __init__(self, value: Tensor | Condition) -> None:
        super().__init__()
        self.value = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.value = self.value.map(fn) if isinstance(self.value, Condition) else fn(self.value)
        return self
