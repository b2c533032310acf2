"""A run that starts where another one ended: student and fake score from its checkpoint."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from carv_distill.digests import content_digest
from carv_distill.engine.checkpoints import newest_checkpoint
from carv_distill.engine.environment import read_environment
from carv_distill.engine.folder import CONFIG, read_run_config
from carv_distill.errors import UserError, one_line

from .module import DMDModule
from .options import DMDConfig

log = logging.getLogger(__name__)


def start_from(module: DMDModule, place: str) -> None:
    """Puts student and fake score where those of a checkpoint were, and every average at the student.

    Optimisers, discriminator, averages and random streams begin anew, as in DMD2's second phase.

    Args:
        place: a finished run's folder, of which the newest checkpoint is taken, or a checkpoint of any run.

    Raises:
        UserError: the run is not finished; there is no checkpoint, it cannot be read, is none of a
            distillation, or of other networks.
    """
    path = _checkpoint(Path(place))
    log.info("student and fake score start as in %s", path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"dmd.start: {path} is no checkpoint that can be read: {one_line(error)}") from error
    for name in ("student", "fake"):
        _load(getattr(module.objective, name), state, f"objective.{name}.", path)
    module.reset_averages()


def require_same_base(config: DMDConfig, place: str) -> None:
    """Refuses adapters of a run to which B A was something else: they have the same names and shapes with
    another α, and over another network. Of a checkpoint outside of its run's folder neither is known.

    Raises:
        UserError: α/r or the teacher's files differ.
    """
    run = Path(place) if Path(place).is_dir() else Path(place).parent.parent
    own = config.dmd.adapters
    if own.kind == "none" or not (run / CONFIG).is_file():
        return
    theirs = read_run_config(run).get("dmd", {}).get("adapters", {})
    before, now = (theirs.get("alpha") or theirs.get("rank"), own.alpha or own.rank)
    if before != now:
        raise UserError(
            f"dmd.start: the adapters of {run} were trained with dmd.adapters.alpha: {before}, here it is "
            f"{now}; give dmd.adapters.alpha={before}"
        )
    teacher = Path(config.teacher.path)
    digest = read_environment(run).get("contents", {}).get("teacher.path")
    if digest is not None and teacher.exists() and content_digest(teacher) != digest:
        raise UserError(
            f"dmd.start: the adapters of {run} lie over another teacher than teacher.path: {teacher}; start "
            "with the one that its config.yaml names"
        )


def _checkpoint(place: Path) -> Path:
    if place.is_file():
        return place
    if not (place / "checkpoints").is_dir() or (newest := newest_checkpoint(place / "checkpoints")) is None:
        raise UserError(
            f"dmd.start: {place} holds no checkpoint that can be read; a run's folder has them in "
            "checkpoints/ (a student's folder lacks the fake score)"
        )
    path, step = newest
    trainer = read_run_config(place).get("trainer")
    wanted = trainer.get("max_steps") if isinstance(trainer, dict) else None
    if not isinstance(wanted, int) or step < wanted:
        raise UserError(
            f"dmd.start: {place} has made {step} of its {wanted or '?'} updates; finish it (--resume), or "
            f"name one of its checkpoints, as {path}"
        )
    return path


def _load(network: nn.Module, state: dict[str, Tensor], prefix: str, path: Path) -> None:
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    expected = network.state_dict()
    if not given:
        raise UserError(f"dmd.start: {path} is not a distillation's: it has no {prefix}…")
    if differing := expected.keys() ^ given.keys():
        raise UserError(f"dmd.start: {path} has another network, first at {prefix}{min(differing)}")
    for key, value in given.items():
        if value.shape != expected[key].shape:
            found, wanted = list(value.shape), list(expected[key].shape)
            raise UserError(
                f"dmd.start: {path} has {prefix}{key} of shape {found}; this teacher's is {wanted}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"dmd.start: {path} has a value in {prefix}{key} that is not finite")
    network.load_state_dict(given)
