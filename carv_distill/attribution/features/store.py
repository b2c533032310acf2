"""Features of samples on disk, in blocks that are written once and outlive an interruption."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.files import atomic_file, read_json, write_json

log = logging.getLogger(__name__)

MANIFEST, SECONDS = "store.json", "seconds.json"
REMEDY = "give another folder with --store, or remove this one"

FLAGS = {
    "samples": "--among or --data",
    "model": "--teacher or --run",
    "projection.kind": "--projection",
    "projection.number": "--checkpoints",
    "projection.drawn on": "--device",
    "projection.by": "way to project",
    "sampler": "--strategy, --proposal or --noise",
    "loss": "--output or levels of the training",
}
"""What a user calls an entry of a manifest, where it is not --entry."""
DIGESTED = ("model", "data", "parameters", "sampler", "loss", "projection.by")
"""Entries that say nothing by themselves."""

REPEATED = ("--draws", "--groups", "--size", "--seed", "--noise", "--precision", "--projection")
"""Options by which a store is gone on with as it was made."""

Fingerprint = Mapping[str, str | int | float | list[Any] | dict[str, Any] | None]


class FeatureStore:
    """Features [N, G, m] float32 of N samples in G groups: `store.json` and one `.npy` file for each block.

    A block appears under its name once it is whole, so that whoever is interrupted, one process or one of
    many, goes on with the blocks that are missing. A folder made by another set-up is refused.

    Args:
        folder: made if need be; several processes may do so at once.
        samples, groups, size: N, G and m.
        fingerprint: what the features depend on (model, data, parameters, projection, draws, loss …), as JSON
            can hold it.
        block: samples in a file.

    Raises:
        UserError: the folder was made with another shape, block or fingerprint, cannot be written, or its
            manifest cannot be read.
        ValueError: a size below 1, or a NaN in the fingerprint.
    """

    def __init__(
        self, folder: Path, samples: int, groups: int, size: int, fingerprint: Fingerprint, block: int = 64
    ) -> None:
        if min(samples, groups, size, block) < 1:
            sizes = f"{samples}, {groups}, {size}, {block}"
            raise ValueError(f"samples, groups, size and block must be at least 1, found {sizes}")
        self.folder, self.samples, self.groups, self.size, self.block = folder, samples, groups, size, block
        self.count = -(-samples // block)
        self._warned: set[int] = set()
        shape = {"format": 1, "samples": samples, "groups": groups, "size": size, "block": block}
        text = json.dumps({**shape, "fingerprint": dict(fingerprint)}, indent=2, allow_nan=False)
        self._make_or_check(text)

    def _make_or_check(self, text: str) -> None:
        """Writes the manifest unless there is one, and compares it with `text`."""
        path = self.folder / MANIFEST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # before the manifest: another process may be making the store at this moment
            orphans = any(self.folder.glob("block-*.npy"))
            if not path.exists():
                if orphans:
                    raise UserError(f"{self.folder}: blocks of features without their {MANIFEST}; {REMEDY}")
                with atomic_file(path, replace=False) as file:
                    file.write(f"{text}\n".encode())
        except FileExistsError:
            if not self.folder.is_dir():
                raise UserError(f"{self.folder}: not a folder; give another with --store") from None
        except OSError as error:
            raise UserError(f"{self.folder}: could not be written ({error.strerror})") from error
        require_alike(self.folder, json.loads(text))

    def rows(self, block: int) -> slice:
        """The samples of a block; the last may have fewer."""
        if not 0 <= block < self.count:
            raise IndexError(f"block {block} of a store with {self.count}")
        return slice(block * self.block, min((block + 1) * self.block, self.samples))

    def missing(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Numbers b ≡ rank (mod world_size) of the blocks that are yet to be made; no features are read."""
        return [b for b in range(rank, self.count, world_size) if self._mapped(b) is None]

    def write(self, block: int, features: Tensor) -> None:
        """Puts features [rows, G, m] of a block on disk, whole or not at all.

        Raises:
            UserError: a NaN or infinity in float32, with the number of the sample; or the file could not be
                written. All other blocks stay.
            ValueError: another shape.
        """
        rows, shape = self.rows(block), self._shape(block)
        if features.shape != shape:
            raise ValueError(f"block {block} has features {list(shape)}, found {list(features.shape)}")
        features = features.detach().to("cpu", torch.float32).contiguous()
        finite = features.isfinite().flatten(1).all(1)
        if not finite.all():
            number = rows.start + int(finite.int().argmin())
            raise UserError(f"training sample {number}: its gradient holds NaN or infinity")
        array, path = features.numpy(), self._path(block)
        try:
            with atomic_file(path) as file:
                # not np.save, whose own writes lose the reason of a failure
                npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
                file.write(array.data)
        except OSError as error:
            raise UserError(
                f"{path}: could not be written ({error.strerror}); make room and run the same command again: "
                "it goes on from the blocks that are there"
            ) from error

    def timed(self, samples: int, seconds: float) -> None:
        """Adds to the seconds that features of so many samples took by one process."""
        before = self._timed()
        total = {"samples": before[0] + samples, "seconds": before[1] + seconds}
        write_json(self.folder / SECONDS, total)

    @property
    def seconds(self) -> float | None:
        """That all samples take one process, by those that were timed; None if none were.

        Raises:
            UserError: the file that says it cannot be read.
        """
        samples, seconds = self._timed()
        return seconds / samples * self.samples if samples else None

    def _timed(self) -> tuple[int, float]:
        """Samples that were timed, and the seconds that they took."""
        path = self.folder / SECONDS
        if not path.is_file():
            return 0, 0.0
        content = read_json(path)
        samples, seconds = content.get("samples"), content.get("seconds")
        if not isinstance(samples, int) or not isinstance(seconds, int | float):
            raise UserError(f"{path}: not the seconds that features took; remove it")
        return samples, float(seconds)

    def read(self, block: int) -> Tensor:
        """Features [rows, G, m] of a block, mapped from the file; changes to them stay in memory.

        Raises:
            UserError: the block is missing.
        """
        array = self._mapped(block)
        if array is None:
            raise UserError(f"{self.folder}: block {block} is missing; run the same command again to make it")
        return torch.from_numpy(array)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows and features of every block in order.

        Raises:
            UserError: some are missing, with their number; at the call, not at the first block.
        """
        if missing := self.missing():
            raise UserError(
                f"{self.folder}: {len(missing)} of {self.count} blocks of features are missing; run the same "
                "command again to make them"
            )
        return ((self.rows(b), self.read(b)) for b in range(self.count))

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.npy"

    def _shape(self, block: int) -> tuple[int, int, int]:
        rows = self.rows(block)
        return rows.stop - rows.start, self.groups, self.size

    def _mapped(self, block: int) -> np.memmap | None:
        """The array of a block, copied on write; None if there is none or its file is of no use."""
        path, shape = self._path(block), self._shape(block)
        try:
            array = npy.open_memmap(path, mode="c")  # reads .npy alone, and refuses what needs unpickling
            if (array.shape, array.dtype) == (shape, np.float32):
                return array
            reason = f"{array.dtype} {list(array.shape)} instead of float32 {list(shape)}"
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
        if block not in self._warned:
            self._warned.add(block)
            log.warning("%s cannot be used (%s) and is made anew", path, reason)
        return None


def require_alike(folder: Path, wanted: Mapping[str, Any], whole: bool = True) -> None:
    """UserError unless the store in a folder, if there is one, was made as is wanted, by options if they say
    how.

    Args:
        wanted: a manifest.
        whole: nothing but that is allowed; else it is a part of one, for what is known before the rest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    there, now = _entries(folder, _read(path)), _entries(folder, json.dumps(wanted))
    known = {**now, **there} if whole else now
    unlike = [key for key in known if there.get(key) != now.get(key)]
    if "samples" in unlike:  # of which the digest of the data says the same once more
        unlike = [key for key in unlike if key != "fingerprint.data"]
    if unlike:
        first, *others = unlike
        name = _flag(first)
        said = f"{name} {there.get(first, 'absent')}, asked for now is {now.get(first, 'absent')}"
        if first.removeprefix("fingerprint.") in DIGESTED:
            said = f"another {name} than is asked for now"
        more = f"; unlike are also {', '.join(map(_flag, others))}" if others else ""
        before = there.get(first, "").strip('"')
        again = f"ask for {name} {before}, " if before and not others and name in REPEATED else ""
        raise UserError(f"{folder}: made with {said}{more}; {again}{REMEDY}")


def _flag(key: str) -> str:
    name = key.removeprefix("fingerprint.")
    return FLAGS.get(name, f"--{name.rpartition('.')[2]}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _entries(folder: Path, text: str) -> dict[str, str]:
    """What a manifest holds, each number or text by its path in it, as JSON."""
    try:
        content = json.loads(text)
        _ = content["fingerprint"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST}: not the manifest of a store of features; {REMEDY}") from error
    entries: dict[str, str] = {}

    def add(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            else:
                entries[f"{prefix}{key}"] = json.dumps(value, sort_keys=True, ensure_ascii=False)

    add(content, "")
    return entries
