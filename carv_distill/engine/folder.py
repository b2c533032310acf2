"""A run's folder: its name, what is written there, and which one is meant."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import eq
from pathlib import Path
from typing import Any

from carv_distill.errors import UserError
from carv_distill.files import read_json, write_text
from carv_distill.options import leaves

from .config import Tasks, config_from_dict, to_dict
from .environment import LAYOUT, NAME, contents, read_environment, require_layout
from .lock import LOCK
from .options import RunConfig
from .task import Task
from .values import plain, read_yaml, yaml_text

log = logging.getLogger(__name__)

NEWEST = re.compile(r"newest-step=(\d+)\.ckpt")
_OURS = re.compile(r"(?:newest|best)-step=(\d+)\.ckpt")
CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.csv", "summary.json"
WRITTEN = (CONFIG, NAME, METRICS, SUMMARY, LOCK, "checkpoints", "samples", "figures", "tensorboard")
"""What a run writes into its folder, beside its product and what is measured of it later."""


def new_folder(config: RunConfig) -> Path:
    """The first free folder of this name, as another run is never written into; UserError if it cannot be."""
    base = Path(config.folder, config.name)
    folder, suffix = base, 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = base.with_name(f"{base.name}-{suffix}")
            suffix += 1
        except OSError as error:
            raise UserError(f"folder: {folder} cannot be made ({error.strerror})") from error


def folder_to_resume(task: Task, config: RunConfig) -> Path:
    """The run named by the config.

    Raises:
        UserError: there is none, or it has other values that must not change.
    """
    folder = Path(config.folder, config.name)
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: there is no run {folder} to resume; start it without --resume")
    if any((folder / "checkpoints").glob("*.ckpt")):  # an attempt killed early has its configuration alone
        require_layout(folder, "--resume")
    written = read_run_config(folder)
    if written.get("task") != task.name:
        raise UserError(_differs("task", written.get("task"), folder, task.name))
    # through the schema, so that a key which is younger than the run has its default
    saved = config_from_dict({task.name: task}, written, str(folder / CONFIG))
    before = {key: value for key, _, value, _ in leaves(saved)}
    now, differing = {key: value for key, _, value, _ in leaves(config)}, []
    started_with = read_environment(folder).get("contents", {}) if (folder / NAME).is_file() else {}
    for key, spec, value, free in leaves(config):
        if key == "trainer.max_steps" and task.fixed_length(config):
            free = False
        if key == "name" or free:  # a run's name is its folder's
            continue
        if spec.metadata.get("content") and key in started_with:
            _require_content(key, value, started_with[key], contents(config).get(key), folder)
        elif not (_same_place if spec.metadata.get("place") else eq)(before[key], value):
            differing.append(key)
    if differing:
        first = differing[0]
        others = f" (other values differ too: {', '.join(differing[1:])})" if differing[1:] else ""
        raise UserError(_differs(first, before[first], folder, now[first], others))
    return folder


def _require_content(key: str, value: Any, before: str, now: str | None, folder: Path) -> None:
    """UserError unless a file or folder holds what it held, wherever it lies now."""
    if now != before:
        what = "is not here any more" if now is None else "has other content than"
        raise UserError(
            f"--resume: {key}: {value} {what} the one that {folder} was started with; a resumed run keeps "
            "its own: name that one (or give another name to start a new run)"
        )


def _same_place(before: str | None, now: str | None) -> bool:
    """Whether two paths, which may begin in different working folders, lead to one file."""
    if before == now or before is None or now is None:
        return before == now
    old, new = Path(before), Path(now)
    if old.exists() and new.exists():
        return old.samefile(new)
    # moved with its environment it keeps its name and its folder's; runs/a/teacher is not runs/b/teacher
    return new.exists() and old.parts[-2:] == new.parts[-2:]


def _differs(key: str, before: Any, folder: Path, now: Any, others: str = "") -> str:
    why = " (its learning rates decay over that many)" if key == "trainer.max_steps" else ""
    return (
        f"--resume: {key} was {before!r} in {folder}{why}, now {now!r}{others}; a resumed run keeps its "
        "values: say them again (or give another name to start a new one)"
    )


def require_own(task: Task, config: RunConfig, folder: Path) -> None:
    """UserError unless a folder without checkpoints is what an attempt at this very run left, which may have
    been killed at any moment, or empty."""
    if (folder / CONFIG).is_file():
        folder_to_resume(task, config)
        return
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in WRITTEN and p.suffix != ".tmp")
    if foreign:
        raise UserError(f"--requeue: {folder} is no run's folder: it holds {foreign[0]} and no {CONFIG}")


def require_checkpoints(folder: Path, config: RunConfig) -> None:
    """UserError for a run that ended before its first checkpoint."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        raise UserError(
            f"--resume: {folder} ended before its first checkpoint (checkpoint.every: "
            f"{read_run_config(folder)['checkpoint']['every']}); start it anew, without --resume, or with "
            "--requeue"
        )


def newest_run(
    root: Path, tasks: Sequence[Task], example: str, fits: Callable[[Path], bool] = lambda run: True
) -> Path:
    """The run of one of these tasks, and one that fits, whose last attempt is newest; UserError without any.

    Args:
        example: the configuration that makes one, for the message.
    """
    names = [task.name for task in tasks]
    runs = [path.parent for path in root.glob(f"*/{NAME}")]
    runs = [run for run in runs if read_run_config(run).get("task") in names]
    for run in sorted(runs, key=lambda run: (run / NAME).stat().st_mtime_ns, reverse=True):
        if fits(run):
            return run
    raise UserError(
        f"{root} holds no run of task {' or '.join(names)}"
        f"{' that can be measured so' if runs else ''}; make one with "
        f"python train.py --config configs/{example}"
    )


def open_run(tasks: Tasks, folder: Path) -> tuple[Task, RunConfig]:
    """The task and the configuration of a run.

    Raises:
        UserError: the run is of an earlier version, whose configuration cannot be read.
    """
    values, path = read_run_config(folder), folder / CONFIG
    try:
        config = config_from_dict(tasks, values, str(path))
    except UserError as error:
        if (folder / NAME).is_file() and read_environment(folder).get("layout") != LAYOUT:
            raise UserError(f"{folder} is a run of an earlier version: {error}") from error
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    config.name = folder.resolve().name
    return tasks[config.task], config


def trained_by(folder: Path) -> dict[str, Any]:
    """What a measurement says about the training it measured: configuration and commit."""
    environment = read_environment(folder)
    about = {"git": environment["git"], "config": read_run_config(folder)}
    return about | ({} if (step := product_step(folder)) is None else {"product_step": step})


def read_run_config(folder: Path) -> dict[str, Any]:
    """A run's own config.yaml; UserError for another folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    values: dict[str, Any] = plain(read_yaml(path))
    return values


def checkpoints_in(folder: Path) -> list[tuple[Path, int]]:
    """The files there that bear a checkpoint's name, with the step it says; a copy beside them bears none."""
    named = [(path, _OURS.fullmatch(path.name)) for path in sorted(folder.glob("*.ckpt"))]
    return [(path, int(name[1])) for path, name in named if name and not path.is_symlink()]


def product_of(run: Path, name: str) -> Path:
    """The folder of what a run made; says where it is older than the run's newest checkpoint.

    Raises:
        UserError: there is none yet.
    """
    if not (run / name).is_dir():
        raise UserError(f"{run}: no {name} folder; the run has not reached its first checkpoint")
    made, newest = product_step(run), max((at for _, at in checkpoints_in(run / "checkpoints")), default=0)
    if made is not None and made < newest:
        log.warning(
            "%s is of update %d, the run's newest checkpoint of update %d: "
            "python evaluate.py export --run %s makes it anew",
            run / name,
            made,
            newest,
            run,
        )
    return run / name


def product_step(run: Path) -> int | None:
    """The update that a run's product is of, by its summary.json; None where that does not say."""
    if not (run / SUMMARY).exists():
        return None
    try:
        step = read_json(run / SUMMARY).get("product_step")
    except UserError as error:
        log.warning("%s; of which update the product is cannot be told", error)
        return None
    return step if isinstance(step, int) else None


def kept_values(config: RunConfig) -> dict[str, Any]:
    """The values, without places and names, that a resumed run has in common with its checkpoints."""
    return {
        key: value
        for key, spec, value, free in leaves(config)
        if not (free or spec.metadata.get("place") or key in ("name", "trainer.max_steps"))
    }


def values_of(run: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Those that the run's own config.yaml has; an older one lacks some."""

    def inside(values: Any, path: Sequence[str]) -> Iterator[Any]:
        if not path:
            yield values
        elif isinstance(values, Mapping) and path[0] in values:
            yield from inside(values[path[0]], path[1:])

    config = read_run_config(run)
    return {key: value for key in keys for value in inside(config, key.split("."))}


def write_config(folder: Path, config: RunConfig) -> None:
    """config.yaml, with every value."""
    write_text(folder / CONFIG, yaml_text(to_dict(config)))


def remove_leftovers(folder: Path, product: str) -> None:
    """Half-written files and folders of a training that was killed (:mod:`carv_distill.files` names them); a
    measurement may be writing its own."""
    names = (*WRITTEN, product)
    for path in sorted(folder.rglob(".*.tmp")):  # a list, as what lies in a folder goes with it
        top = path.relative_to(folder).parts[0]
        if top not in names and not top.startswith(tuple(f".{name}{end}" for name in names for end in ".-")):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
