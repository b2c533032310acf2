"""Checkpoints that are whole or not there."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.errors import UserError, one_line
from carv_distill.files import atomic_file

from .devices import precision_of
from .environment import require_layout
from .fid_trace import FIDTrace
from .folder import NEWEST, checkpoints_in, kept_values, values_of
from .options import CheckpointOptions, RunConfig

log = logging.getLogger(__name__)

_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What zipfile and torch raise at bytes that are no checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a crash or a full disk leaves the older file as it was.

    Args:
        mapped: a process reads of a file what it takes, not all that the others need too.
    """

    def __init__(self, mapped: bool = False) -> None:
        super().__init__()
        self.mapped = mapped

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            reason = one_line(error.__context__ or error)
            raise UserError(
                f"{path}: the checkpoint could not be written ({reason}); the previous one is kept"
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", mmap=self.mapped, weights_only=True
        )
        return content


class Checkpoints(Callback):
    """Keeps the newest checkpoints, with `last.ckpt` naming the newest, and those of the lowest FID.

    A checkpoint is written every few updates and after the last one. Which are the best is part of the
    checkpoint, so that a resumed run keeps the files that an uninterrupted one would. (Lightning's
    ModelCheckpoint never removes the file that a run was resumed from, stores absolute paths, replaces
    last.ckpt in two steps, and warns at each save under manual optimisation.)

    Args:
        values: of the configuration, that a resumed run keeps: by them a checkpoint knows its run.
    """

    def __init__(self, folder: Path, options: CheckpointOptions, values: Mapping[str, Any]) -> None:
        self.folder, self.options, self.values = folder, options, dict(values)
        self.best: dict[int, float] = {}
        self._newest: int | None = None
        self._links = True
        """Whether this disk has symbolic links, as far as is known."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._prune(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if any(isinstance(c, FIDTrace) and c.is_due(trainer) for c in trainer.callbacks):  # type: ignore[attr-defined]
            self.best[step] = float(trainer.callback_metrics["fid"])
            best = sorted(self.best, key=self.best.__getitem__)[: self.options.keep_best]
            self.best = {s: self.best[s] for s in best}
            if step in self.best:
                trainer.save_checkpoint(self.folder / f"best-step={step}.ckpt")
                self._prune(step)
        if step % self.options.every == 0 or step == trainer.max_steps:
            self.keep_newest(trainer)

    def keep_newest(self, trainer: Trainer) -> None:
        """A checkpoint of the present step, unless there is one already."""
        step = trainer.global_step
        if self._newest != step:
            trainer.save_checkpoint(self.folder / f"newest-step={step}.ckpt")
            self._link_last(step)
            self._prune(step)
            self._newest = step

    @rank_zero_only
    def _link_last(self, step: int) -> None:
        scratch, last = self.folder / ".last.ckpt", self.folder / "last.ckpt"
        scratch.unlink(missing_ok=True)
        try:
            scratch.symlink_to(f"newest-step={step}.ckpt")
        except OSError as error:  # as on Colab's Drive, exFAT and some CIFS
            last.unlink(missing_ok=True)  # it would name an older one
            if self._links:
                reason = f"a symbolic link cannot be made there ({error.strerror})"
                log.warning("%s: %s; nothing needs it, --resume neither", last, reason)
            self._links = False
            return
        os.replace(scratch, last)

    @rank_zero_only
    def _prune(self, step: int) -> None:
        """Removes what is not among the newest or the best; what lies ahead is of an earlier attempt."""
        kept = [
            (path, at, NEWEST.fullmatch(path.name) is not None) for path, at in checkpoints_in(self.folder)
        ]
        newest = sorted(at for _, at, is_newest in kept if is_newest and at <= step)
        newest = newest[-self.options.keep_newest :]
        for path, at, is_newest in kept:
            if at not in (newest if is_newest else self.best):
                path.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def newest_checkpoint(folder: Path, values: Mapping[str, Any] | None = None) -> tuple[Path, int] | None:
    """The checkpoint with the most steps that can be read whole, and its step; damaged ones are named.

    Only plain tensors and containers are read: no code in the file is executed.

    Args:
        values: of a configuration; a checkpoint of a run with others is refused.

    Raises:
        UserError: the disk does not give one of them at present, or it is none of this run.
    """
    # from the newest on, as each is read from end to end
    by_step = sorted(checkpoints_in(folder), key=lambda of: (of[1], of[0]), reverse=True)
    return next(((path, step) for path, step in by_step if _is_whole(path, step, values)), None)


def _is_whole(path: Path, step: int, values: Mapping[str, Any] | None) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"checksum of {bad}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        # A file that is there and cannot be read is no damage: a disk may be away for a while.
        if error.errno not in (None, errno.EINVAL):
            reason = f"cannot be read now ({error.strerror})"
            raise UserError(f"{path} {reason}; nothing was changed") from error
        log.warning("%s is damaged (%s) and is passed over", path, error)
        return False
    except _DAMAGE as error:
        log.warning("%s is damaged (%s) and is passed over", path, one_line(error))
        return False
    if fault := _fault(content, step, values or {}):
        raise UserError(f"{path} is no checkpoint of this run: {fault}; move it away to go on without it")
    return True


def _fault(content: Any, step: int, values: Mapping[str, Any]) -> str | None:
    """What is wrong with a file that could be read."""
    if not isinstance(content, dict) or not all(part in content for part in _PARTS):
        held = content if isinstance(content, dict) else {}
        return f"it lacks {', '.join(part for part in _PARTS if part not in held)}"
    if not content["optimizer_states"]:
        return "it lacks its optimiser"
    if content["global_step"] != step:
        return f"it is of update {content['global_step']}"
    states = content["callbacks"].values() if isinstance(content["callbacks"], dict) else ()
    before: dict[str, Any] = next((s["values"] for s in states if isinstance(s, dict) and "values" in s), {})
    for key in sorted(values.keys() & before.keys()):
        if values[key] != before[key]:
            return f"{key} is {before[key]!r} there, {values[key]!r} here"
    return None


def checkpoint_at(
    folder: Path, step: int | None, values: Mapping[str, Any] | None = None
) -> tuple[Path, int]:
    """The checkpoint of a step, kept as one of the newest or of the best (None: the newest that can be read
    whole), and its step; UserError without."""
    if step is None:
        if (newest := newest_checkpoint(folder, values)) is None:
            raise UserError(f"{folder} holds no checkpoint to measure")
        return newest
    kept = checkpoints_in(folder)
    paths = [path for path, at in kept if at == step]
    if not paths:
        there = sorted({at for _, at in kept})
        raise UserError(f"{folder} holds no checkpoint of step {step}; there are {there}")
    for path in paths:
        if _is_whole(path, step, values):
            return path, step
    raise UserError(f"{paths[-1]} is damaged")


def read_checkpoint(run: Path, config: RunConfig, step: int | None) -> tuple[dict[str, Any], int]:
    """The content of a run's checkpoint (None: the newest), and its step. Nothing of it is in memory before
    it is taken: with all moments of the optimisers it has several times the bytes of the weights.

    Raises:
        UserError: there is none, it is damaged, or none of this configuration.
    """
    require_layout(run, "--run")
    values = values_of(run, kept_values(config))
    path, step = checkpoint_at(run / "checkpoints", step, values)
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content, step


def load_checkpoint(
    module: LightningModule, run: Path, config: RunConfig, device: str, step: int | None
) -> int:
    """Puts a module where a run was at a checkpoint (None: the newest), in its precision; its step.

    Args:
        config: of the module; where it is not the run's own, what is measured is not what was trained.
    """
    checkpoint, step = read_checkpoint(run, config, step)
    if precision_of(config.trainer, device) == "64-true":
        module.double()
    module.to(device)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    return step
