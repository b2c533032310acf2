"""What W&B keeps offline: the records of a .wandb file.

A header of seven bytes, then blocks of 32 KiB with pieces of records, as a log of LevelDB has them: a
checksum (4 bytes), a length (2), a kind (1: whole; 2, 3, 4: first, middle, last piece).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD, FILE_HEAD = 32768, 7, 7


def records(path: Path) -> Iterator[Any]:
    """The protocol buffers of a file, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, pieces = path.read_bytes(), FILE_HEAD, b""
    assert content.startswith(b":W&B")
    while place + HEAD <= len(content):
        if (left := BLOCK - place % BLOCK) < HEAD:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += HEAD
        pieces += content[place : place + length]
        place += length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(pieces)
            yield record
            pieces = b""


def segments(run: Path) -> list[list[Any]]:
    """The records of each attempt of a run, the earliest first."""
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [list(records(path)) for path in files]


def history(segment: list[Any]) -> list[dict[str, Any]]:
    """The rows of an attempt, `_step` among their columns."""
    rows = []
    for record in segment:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def run_of(segment: list[Any]) -> Any:
    """Its id, project and name."""
    return next(r.run for r in segment if r.WhichOneof("record_type") == "run")


def config_of(segment: list[Any]) -> dict[str, Any]:
    """The configuration as it was last."""
    config: dict[str, Any] = {}
    for record in segment:
        kind = record.WhichOneof("record_type")
        update = record.run.config if kind == "run" else record.config if kind == "config" else None
        if update is not None:
            config |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in update.update}
    return config
