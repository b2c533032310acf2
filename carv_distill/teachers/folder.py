"""Folders in diffusers' layout: where they lie, and what is in their files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from carv_distill import files
from carv_distill.digests import DIGESTS
from carv_distill.errors import UserError, one_line

_VARIANTS = ["*.fp16*", "*.bf16*", "*.non_ema*"]
FOREIGN = (
    OSError,
    SafetensorError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    StrictDataclassError,
)
"""What libraries raise at files, and at settings, that are not what they should be."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(path: str, patterns: Sequence[str] = ("*.json", "*.safetensors", f"*{DIGESTS}")) -> Path:
    """The folder itself, or where the hub's files that match the patterns now lie.

    Variants of the same weights (half precision and the like) are not fetched: they would not be read.

    Raises:
        UserError: neither a folder nor a model of the hub; a pickle.
    """
    if Path(path).is_dir():
        return Path(path)
    if path.endswith(".pkl"):
        raise UserError(
            f"teacher.path: {path} is a pickle, which is never opened here; convert it first: "
            f"python -m carv_distill.teachers.convert {path} FOLDER"
        )
    # runs/x or checkpoints/x, with the folder misspelt, is not meant for the hub
    if not _HUB_ID.fullmatch(path) or Path(path).parent.is_dir():
        raise UserError(f"teacher.path: {path} is not a folder, nor a hub id such as google/ddpm-cifar10-32")
    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns), ignore_patterns=_VARIANTS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"teacher.path: {path} is not a folder here, and the hub gave no such model: {one_line(error)}; "
            f"without a network, put its files into a folder {path} here"
        ) from error


def model_inside(folder: Path) -> str:
    """For a message: where a folder that is no model's has one below it, as a run's does; else empty."""
    for name in ("teacher", "student"):
        if any((folder / name / file).is_file() for file in ("config.json", "model_index.json")):
            return f"; {folder / name} is one"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: no such file, or something else in it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; a diffusers folder has it")
    return files.read_json(path)


def refuse_code(folder: Path) -> None:
    """That a folder does not ask for code of its own, which transformers would run; a hub's model is held
    off by `trust_remote_code=False`.

    Raises:
        UserError: a configuration in it has `auto_map`.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith("config.json") and "auto_map" in read_json(path):
            raise UserError(
                f"{path} asks for code of its own (auto_map), which is never run here; where its class is "
                "transformers' own, remove auto_map"
            )


@contextmanager
def reading(place: str, what: str) -> Iterator[None]:
    """A block in which diffusers or transformers read something.

    Raises:
        UserError: it is missing or damaged; "`place` no readable `what`: …", in one line.
    """
    try:
        yield
    except FOREIGN as error:
        raise UserError(f"{place} no readable {what}: {one_line(error)}") from error
