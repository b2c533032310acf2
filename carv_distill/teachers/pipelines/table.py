"""The conditions of many prompts, made once and kept on disk: text models are loaded for new ones alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from carv_distill.errors import UserError, one_line
from carv_distill.files import atomic_file
from carv_distill.teachers.condition import Condition, HeldCondition

from .encoder import PromptEncoder

SHARD = 1024
"""Prompts of a file."""
IN_MEMORY = 2**31
"""Bytes of conditions up to which they lie beside the network; beyond they are read as they are wanted."""


class PromptTable(nn.Module):
    """The condition of prompt i, for numbers i.

    Args:
        shards: files of :data:`SHARD` rows each.
        count: rows of all.
        null: the condition of one row that stands for no prompt.
    """

    def __init__(self, shards: Sequence[Path], count: int, null: Condition) -> None:
        super().__init__()
        self.shards, self.count, self.null = list(shards), count, null
        row = sum(part.nbytes for part in self._read(0, 0).values())
        self.held: HeldCondition | None = None
        if row * count <= IN_MEMORY:
            every = [self._read(i, None) for i in range(len(self.shards))]
            parts: dict[str, Any] = {name: torch.cat([e[name] for e in every]) for name in every[0]}
            self.held = HeldCondition(Condition(**parts))

    @property
    def nbytes(self) -> int:
        """That lie beside the network."""
        if self.held is None:
            return 0
        value = self.held.value
        assert isinstance(value, Condition)
        return value.bytes

    def __len__(self) -> int:
        return self.count

    def forward(self, numbers: Tensor) -> Condition:
        """Rows of these numbers [n], on their device."""
        if self.held is not None:
            value = self.held.value
            assert isinstance(value, Condition)
            return value[numbers]
        rows = [self._read(*divmod(number, SHARD)) for number in numbers.tolist()]
        parts: dict[str, Any] = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return Condition(**parts).to(numbers.device)

    def _read(self, shard: int, row: int | None) -> dict[str, Tensor]:
        """A row of a shard, or all of them."""
        try:
            file = self._open(shard)
            names = file.keys()
            if row is None:
                return {name: file.get_tensor(name) for name in names}
            return {name: file.get_slice(name)[row : row + 1] for name in names}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.shards[shard]} cannot be read ({one_line(error)}); remove it") from error

    @cached_property
    def _files(self) -> dict[int, Any]:
        return {}

    def _open(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = safe_open(self.shards[shard], "pt")
        return self._files[shard]


def prompt_table(
    folder: Path,
    key: str,
    prompts: Sequence[str],
    load: Callable[[], PromptEncoder],
) -> PromptTable:
    """The table of these prompts, from a folder where it lies, else made there; of several processes one
    makes it.

    Args:
        folder: of all tables; this one has a folder of its own in it.
        key: of the text models and what else a condition depends on, beside the prompt.
        load: reads the text models; called only where something is missing.

    Raises:
        UserError: the folder cannot be written, or what is in it cannot be read.
    """
    digest = hashlib.blake2b("\0".join([key, *prompts]).encode(), digest_size=16).hexdigest()
    place = folder / digest
    shards = [place / f"{i:05d}.safetensors" for i in range(-(-len(prompts) // SHARD))]
    none = place / "none.safetensors"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            missing = [i for i, path in enumerate(shards) if not path.is_file()]
            if missing or not none.is_file():
                encoder = load()
                for i in missing:
                    _write(shards[i], encoder.encode(prompts[i * SHARD : (i + 1) * SHARD], "cpu"))
                _write(none, encoder.encode_null())
        with safe_open(none, "pt") as file:
            parts: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"prompts.cache: {place} cannot be written or read ({one_line(error)})") from error
    return PromptTable(shards, len(prompts), Condition(**parts))


def _write(path: Path, cond: Condition) -> None:
    named: Mapping[str, Tensor | None] = {spec.name: getattr(cond, spec.name) for spec in fields(cond)}
    content = {name: part.contiguous().cpu() for name, part in named.items() if part is not None}
    with atomic_file(path) as file:
        file.write(save(content))
