"""Checkpoints that are whole or not there."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.errors import UserError
from carv_distill.files import atomic_file

from .callbacks import FIDTrace
from .devices import precision_of
from .folder import require_layout
from .options import CheckpointOptions, TrainerOptions

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


class Checkpoints(Callback):
    """Keeps the newest checkpoints, with `last.ckpt` naming the newest, and those of the lowest FID.

    A checkpoint is written every few updates and after the last one. Which are the best is part of the
    checkpoint, so that a resumed run keeps the files that an uninterrupted one would. (Lightning's
    ModelCheckpoint never removes the file that a run was resumed from, stores absolute paths, replaces
    last.ckpt in two steps, and warns at each save under manual optimisation.)
    """

    def __init__(self, folder: Path, options: CheckpointOptions) -> None:
        self.folder, self.options = folder, options
        self.best: dict[int, float] = {}
        self._newest: int | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if any(isinstance(c, FIDTrace) and c.is_due(trainer) for c in trainer.callbacks):  # type: ignore[attr-defined]
            self.best[step] = float(trainer.callback_metrics["fid"])
            best = sorted(self.best, key=self.best.__getitem__)[: self.options.keep_best]
            self.best = {s: self.best[s] for s in best}
            if step in self.best:
                trainer.save_checkpoint(self.folder / f"best-step={step}.ckpt")
        if step % self.options.every == 0 or step == trainer.max_steps:
            self.keep_newest(trainer)
        self._prune(step)

    def keep_newest(self, trainer: Trainer) -> None:
        """A checkpoint of the present step, unless there is one already."""
        step = trainer.global_step
        if self._newest != step:
            trainer.save_checkpoint(self.folder / f"newest-step={step}.ckpt")
            self._link_last(step)
            self._newest = step

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            last = self.folder / "last.ckpt"
            name = last.resolve().name
            rest = f"{name} is kept: --resume goes on from it" if last.exists() else "nothing is kept"
            log.warning("interrupted at update %d; %s", trainer.global_step, rest)

    @rank_zero_only
    def _link_last(self, step: int) -> None:
        scratch = self.folder / ".last.ckpt"
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(f"newest-step={step}.ckpt")
        os.replace(scratch, self.folder / "last.ckpt")

    @rank_zero_only
    def _prune(self, step: int) -> None:
        """Removes what is not among the newest or the best; what lies ahead is of an earlier attempt."""
        steps = {int(p.stem.split("=")[1]): p for p in self.folder.glob("newest-step=*.ckpt")}
        newest = sorted(s for s in steps if s <= step)[-self.options.keep_newest :]
        for path in [p for s, p in steps.items() if s not in newest]:
            path.unlink()
        for path in self.folder.glob("best-step=*.ckpt"):
            if int(path.stem.split("=")[1]) not in self.best:
                path.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint with the most steps that can be read whole, and its step; damaged ones are named.

    Only plain tensors and containers are read: no code in the file is executed.

    Raises:
        UserError: the disk does not give one of them at present.
    """
    whole = []
    for path in sorted(folder.glob("*.ckpt")):
        if path.is_symlink():
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"checksum of {bad}")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            whole.append((int(content["global_step"]), path))
        except OSError as error:
            # A file that is there and cannot be read is no damage: a disk may be away for a while.
            if error.errno not in (None, errno.EINVAL):
                reason = f"cannot be read now ({error.strerror})"
                raise UserError(f"{path} {reason}; nothing was changed") from error
            log.warning("%s is damaged (%s) and is passed over", path, error)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, KeyError) as error:
            log.warning("%s is damaged (%s) and is passed over", path, error)
    step, path = max(whole, default=(0, folder))
    return (path, step) if whole else None


def checkpoint_at(folder: Path, step: int | None) -> tuple[Path, int]:
    """The checkpoint of a step (None: the newest that can be read whole), and its step; UserError without."""
    if step is None:
        if (newest := newest_checkpoint(folder)) is None:
            raise UserError(f"{folder} holds no checkpoint to measure")
        return newest
    path = folder / f"newest-step={step}.ckpt"
    if not path.is_file():
        there = sorted(int(p.stem.split("=")[1]) for p in folder.glob("newest-step=*.ckpt"))
        raise UserError(f"{folder} holds no checkpoint of step {step}; there are {there}")
    return path, step


def load_checkpoint(
    module: LightningModule, run: Path, options: TrainerOptions, device: str, step: int | None
) -> int:
    """Puts a module where a run was at a checkpoint (None: the newest), in its precision; its step."""
    require_layout(run, "--run")
    path, step = checkpoint_at(run / "checkpoints", step)
    checkpoint: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if precision_of(options, device) == "64-true":
        module.double()
    module.to(device)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    return step
