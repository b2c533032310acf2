"""The file that ends a training of a study: what it was made of, so that it is not taken for another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from carv_distill.digests import content_digest
from carv_distill.files import read_json, write_json

FINISHED = "job.json"
"""In a run's folder once it is trained and evaluated."""
_INPUTS = ("path", "weights", "reference", "start")
"""Keys of a configuration that name what a training reads."""


def made_of(config: Path, words: Sequence[str]) -> dict[str, str]:
    """Digests of a configuration, comments aside, and of the teachers and data on this disk that it names.

    Args:
        words: what a run overrides of it.
    """
    given = OmegaConf.load(config)
    content = json.dumps(OmegaConf.to_container(given), sort_keys=True, default=str)
    found = {"configuration": hashlib.sha256(content.encode()).hexdigest()}
    merged = OmegaConf.to_container(OmegaConf.merge(given, OmegaConf.from_dotlist(list(words))))
    return found | {name: content_digest(Path(name)) for name in _inputs(merged) if Path(name).exists()}


def _inputs(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in _INPUTS and isinstance(value, str):
                yield value
            yield from _inputs(value)


def finish(run: Path, words: Sequence[str], made: Mapping[str, str], ranges: int, **more: str) -> None:
    """Notes that a run is trained and evaluated, and what it was made of.

    Args:
        ranges: of seeds, that its FID is of.
        more: further entries.
    """
    write_json(run / FINISHED, {"words": list(words), "made_of": dict(made), "ranges": ranges, **more})


def difference(run: Path, words: Sequence[str], made: Mapping[str, str], ranges: int) -> str | None:
    """In what a finished run differs from the training that is wanted; None: it is that one.

    What a record from before does not say is taken to be as it is wanted.

    Args:
        ranges: 0 asks for no FID.
    """
    noted = read_json(run / FINISHED)
    if _trains(noted["words"]) != _trains(words):
        return "was trained with other words"
    for name, digest in noted.get("made_of", {}).items():
        if made.get(name, digest) != digest:
            return f"was trained with another {name}"
    if ranges and noted.get("ranges", ranges) != ranges:
        return f"has a FID over {noted['ranges']} ranges of seeds, wanted {ranges},"
    return None


def _trains(words: Sequence[str]) -> list[str]:
    """All that a training depends on: not what it keeps on the way."""
    return [word for word in words if not word.startswith("checkpoint.")]
