"""A run's folder: its name, what is written there, and which one is meant."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from carv_distill.errors import UserError
from carv_distill.files import read_json, write_json, write_text
from carv_distill.options import leaves

from .config import Tasks, config_from_dict, to_dict
from .environment import LAYOUT, NAME, read_environment
from .lock import LOCK
from .metrics import read_metrics
from .options import RunConfig
from .task import Task
from .yaml_files import plain, read_yaml, yaml_text

log = logging.getLogger(__name__)

NEWEST = re.compile(r"newest-step=(\d+)\.ckpt")
_OURS = re.compile(r"(?:newest|best)-step=(\d+)\.ckpt")
CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.csv", "summary.json"
WRITTEN = (
    CONFIG,
    NAME,
    METRICS,
    SUMMARY,
    LOCK,
    "report.html",
    "checkpoints",
    "samples",
    "figures",
    "tensorboard",
    "wandb",
    "wandb.json",
    "mlflow.json",
)
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


def last_attempt(run: Path) -> int:
    """When it began, in nanoseconds."""
    path = run / NAME if (run / NAME).is_file() else run / CONFIG
    return path.stat().st_mtime_ns


def newest_run(
    root: Path, tasks: Sequence[Task], example: str, refusal: Callable[[Path], str] = lambda run: ""
) -> Path:
    """The run of one of these tasks whose last attempt is newest, less those that are refused, which are
    named; UserError without any.

    Args:
        example: the configuration that makes one, for the message.
        refusal: why a run is passed over; empty: it is not.
    """
    names = [task.name for task in tasks]
    runs = [path.parent for path in root.glob(f"*/{NAME}")]
    runs = [run for run in runs if read_run_config(run).get("task") in names]
    refused: list[tuple[Path, str]] = []
    for run in sorted(runs, key=last_attempt, reverse=True):
        if reason := refusal(run):
            refused.append((run, reason))
            continue
        for newer, why in refused:
            log.info("%s is newer than %s and passed over: %s", newer, run, why)
        return run
    said = f"{root} holds no run of task {' or '.join(names)}"
    if refused:
        newest, why = refused[0]
        raise UserError(f"{said} that can be measured so; the newest is {newest}: {why}")
    raise UserError(f"{said}; make one with python train.py --config configs/{example}")


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


def write_summary(folder: Path, product: int | None = None) -> None:
    """summary.json: the last value of every metric, the lowest FID with its step, and the update that the
    product is of (`product`, or as the file says)."""
    path, rows = folder / SUMMARY, read_metrics(folder / METRICS)
    last: dict[str, float] = {}
    for row in rows:
        last |= row
    result: dict[str, Any] = {"last": last}
    if measured := [r for r in rows if "fid/fid" in r and r["step"] > 0]:
        best = min(measured, key=lambda r: r["fid/fid"])
        result["best_fid"] = {"fid": best["fid/fid"], "step": best["step"]}
    result["product_step"] = product_step(folder) if product is None else product
    write_json(path, result)


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
