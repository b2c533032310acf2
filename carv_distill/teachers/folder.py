"""Folders and hub ids in diffusers' layout."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from carv_distill.errors import UserError

_VARIANTS = ["*.fp16*", "*.bf16*", "*.non_ema*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(path: str, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
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
            f"teacher.path: {path} is not a folder here, and the hub gave no such model: {one_line(error)}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: no such file, or something else in it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; a diffusers folder has it")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def one_line(error: BaseException) -> str:
    """An error of a library in at most 200 characters."""
    return " ".join(str(error).split())[:200]
