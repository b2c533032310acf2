"""Small captioned data sets on disk: folders, zips and shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from .image_files import Files, as_folder, as_zip, png

TEXTS = {"a/0": "a red torus", "a/1": "a blue cube", "b/2": "a red torus", "b/3": "two, or three\nünïcode 蛋"}
"""Caption by a picture's path without suffix."""


def photos() -> Files:
    """Pictures of several sizes."""
    sizes = [(8, 8), (12, 9), (5, 11), (16, 8)]
    return {f"{stem}.png": png(i, size=size) for i, (stem, size) in enumerate(zip(TEXTS, sizes, strict=True))}


def beside() -> Files:
    """Captions in a .txt beside each."""
    return {f"{stem}.txt": f"{text}\n".encode() for stem, text in TEXTS.items()}


def rows(column: str = "text") -> bytes:
    """The lines of a metadata.jsonl."""
    lines = [json.dumps({"file_name": f"{stem}.png", column: text}) for stem, text in TEXTS.items()]
    return "\n".join(lines).encode()


def tar_of(files: Files) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def as_shards(place: Path, files: Files) -> str:
    """A shard for each top folder; what lies in none is in the first."""
    tops: dict[str, Files] = {}
    for name, content in files.items():
        top, _, rest = name.rpartition("/")
        tops.setdefault(top or "a", {})[rest] = content
    return as_folder(place, {f"{top}.tar": tar_of(members) for top, members in tops.items()})


def as_one_shard(place: Path, files: Files) -> str:
    path = place / "set.tar"
    place.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(files))
    return str(path)


WRITERS = [as_folder, as_zip, as_shards, as_one_shard]
