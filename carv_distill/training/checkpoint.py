"""Checkpoints that are whole or not there."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from carv_distill.errors import UserError
from carv_distill.files import atomic_file

from .config import CheckpointOptions, FIDOptions

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a crash or a full disk leaves the older file as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            reason = " ".join(str(error.__context__ or error).split())[:200]
            raise UserError(
                f"{path}: the checkpoint could not be written ({reason}); the previous one is kept"
            ) from error


def checkpoint_callbacks(folder: Path, checkpoint: CheckpointOptions, fid: FIDOptions) -> list[Callback]:
    """The newest checkpoints with `last.ckpt`, and the best by FID."""
    newest = ModelCheckpoint(
        folder,
        filename="newest-{step}",
        monitor="step",
        mode="max",
        save_top_k=checkpoint.keep_newest,
        save_last="link",
        every_n_train_steps=checkpoint.every,
        enable_version_counter=False,
    )
    if not (fid.every and checkpoint.keep_best):
        return [newest]
    best = ModelCheckpoint(
        folder,
        filename="best-{step}",
        monitor="fid",
        mode="min",
        save_top_k=checkpoint.keep_best,
        every_n_train_steps=fid.every,
        enable_version_counter=False,
    )
    return [newest, best]


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint with the most steps that can be read whole, and its step; damaged ones are named.

    Only plain tensors and containers are read: no code in the file is executed.
    """
    found = []
    for path in sorted(folder.glob("*.ckpt")):
        if path.is_symlink():
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"checksum of {bad}")
        except (zipfile.BadZipFile, OSError) as error:
            log.warning("%s is damaged (%s) and is passed over", path, error)
            continue
        found.append(
            (int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]), path)
        )
    if not found:
        return None
    step, path = max(found)
    return path, step
