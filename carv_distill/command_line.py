"""What all commands share: words that do not fit, and things that go wrong, end in one line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from carv_distill.errors import INTERRUPTED, StoppedError, UserError, lacks_memory, one_line
from carv_distill.options import field_texts, nearest
from carv_distill.screen import guard_streams, printable

Options = TypeVar("Options")

LARGEST = 2**63 - 1
"""Of the whole numbers that an option takes."""
EXTRAS = {
    "text-to-3d": ("av", "fast_simplification", "skimage", "trimesh", "xatlas"),
    "attribution": ("av", "psutil", "pyarrow"),
    "text-to-image": ("peft", "sentencepiece", "datasets"),
    "8bit": ("bitsandbytes",),
    "view": ("viser",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""Packages that a part of the program needs, by the extra that brings them."""


class Parser(argparse.ArgumentParser):
    """Shows its description as it was written; a mistake is one line and exit status 2."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        # A shortened option may be a misspelt one, and start the wrong work.
        super().__init__(description=description, formatter_class=form, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line on standard error."""
        self.exit(2, f"error: {printable(message)}\n")

    def refuse_unknown(self, word: str, commands: Collection[str]) -> None:
        """Ends where a word is none of these commands, with the one that is like it."""
        if word not in commands:
            self.error(f"{word}: no command{nearest(word, [*commands])}; there are {', '.join(commands)}")


def started_as(command: str) -> str:
    """What a usage begins with: the script of that name, or the console command with its word."""
    script = Path(sys.argv[0]).name
    return script if script == f"{command}.py" else f"carv-distill {command}"


class Extend(argparse.Action):
    """Keeps all values of an option that takes several, however often it is given: `--run a --run b` is
    `--run a b`. argparse on its own drops the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        given = before if isinstance(before, list) else []  # a default is a tuple, or None
        setattr(namespace, self.dest, [*given, *values])


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """An option for every field of a dataclass: its default, its limits, and the text below it as help.

    A field is a truth value, a text, a number or a path, a tuple of these, and None where it may be left out.
    """
    texts, kinds = field_texts(kind), get_type_hints(kind)
    for spec in fields(kind):
        flag, limits = f"--{spec.name.replace('_', '-')}", spec.metadata
        shared: dict[str, Any] = {"dest": spec.name, "help": texts[spec.name]}
        if spec.default is MISSING:
            shared["required"] = True
        else:
            shared["default"] = spec.default
        value = kinds[spec.name]
        if isinstance(value, UnionType):
            (value,) = (part for part in get_args(value) if part is not NoneType)
        if value is bool:
            action = "store_true" if spec.default is False else argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, **shared)
            continue
        if spec.default is not None and spec.default is not MISSING:
            plain = spec.default if isinstance(spec.default, tuple) else [spec.default]
            shared["help"] += f" ({' '.join(map(str, plain))})"
        if get_origin(value) is tuple:
            shared |= {"nargs": "+", "action": Extend}
            value = get_args(value)[0]
        shared["type"], shared["metavar"] = _reader(value, limits), limits.get("metavar")
        parser.add_argument(flag, choices=limits.get("choices"), **shared)


def options_of(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """The dataclass that :func:`add_options` asked for."""
    values = {spec.name: getattr(arguments, spec.name) for spec in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _reader(kind: type, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    if kind is int:
        return whole_number(limits.get("low", 0), limits.get("high", LARGEST))
    if kind is float:
        least = limits.get("above", limits.get("low", 0))
        return number_from(least, limits.get("high", math.inf), "above" in limits)
    if kind is Path:
        return _file if str(limits.get("metavar")).startswith("FILE") else _path
    return kind


def _path(word: str) -> Path:
    """A path; ~ is the home folder, also where the shell leaves it, as in --out=~/fid.json."""
    return Path(os.path.expanduser(word))


def _file(word: str) -> Path:
    """The path of a file."""
    if word.endswith("/"):
        raise argparse.ArgumentTypeError(f"{word!r} names a folder; name a file")
    return _path(word)


def whole_number(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` to `most`."""

    def parse(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            end = f"to {most}" if most < LARGEST else "on"
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} {end}")
        return number

    return parse


def number_from(least: float, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """The type of an option that takes finite numbers from `least` to `most`.

    Args:
        above: `least` itself is none of them.
    """
    bounded = most < math.inf
    if above:
        allowed = f"above {least:g}" + (f", up to {most:g}" if bounded else "")
    else:
        allowed = f"from {least:g} " + (f"to {most:g}" if bounded else "on")

    def parse(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        enough = number > least if above else number >= least
        if not (enough and number <= most and math.isfinite(number)):
            raise argparse.ArgumentTypeError(f"{word!r} is not a number {allowed}")
        return number

    return parse


def run_command(work: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Does the work; the exit status.

    What the user can mend, and a disk that does not take the results, are one line and status 2; work that a
    scheduler stopped has status 75. One of several processes leaves their group first.

    Args:
        work: raises UserError or OSError where something does not fit.
        interrupted: what to say after Ctrl-C: what is kept, and how to go on.
    """
    guard_streams()
    status, together = _outcome(work, interrupted)
    if "torch.distributed" in sys.modules:
        from carv_distill.processes import leave_group  # not before: loading torch takes seconds

        leave_group(status, together)
    return status


def _outcome(work: Callable[[], None], interrupted: str) -> tuple[int, bool]:
    """The exit status of the work, and whether all processes of it end here."""
    try:
        work()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2, False
    except StoppedError as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return stop.status, stop.together
    except ModuleNotFoundError as error:
        print(f"error: {missing(error)}", file=sys.stderr)
        return 2, False
    except OSError as error:
        where, why = error.filename or "writing", error.strerror or one_line(error)
        print(f"error: {printable(str(where))}: {why}", file=sys.stderr)
        return 2, False
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        why = printable(one_line(error))
        print(f"error: out of memory ({why}); smaller batches take less", file=sys.stderr)
        return 2, False
    except KeyboardInterrupt as stop:
        print(str(stop) or interrupted, file=sys.stderr)
        return INTERRUPTED, False
    return 0, True


def spin_briefly() -> None:
    """Lets threads that wait for each other sleep soon; to be called before torch is loaded.

    A step of a small network has hundreds of short parallel parts, between which OpenMP's threads spin. Where
    another program wants the core, each part then waits for a time slice: two threads fall to a hundredth of
    their speed, with this to half of one thread's. On a quiet machine it costs some 12 %.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def missing(error: ModuleNotFoundError) -> str:
    """What to install for a package that is not here.

    Raises:
        ModuleNotFoundError: it is one of ours.
    """
    name = (error.name or "").split(".")[0]
    if not name or name == "carv_distill":
        raise error
    extra = next((extra for extra, names in EXTRAS.items() if name in names), None)
    wanted = f"carv-distill[{extra}]" if extra else "carv-distill"
    return f"the package {name} is not installed; pip install '{wanted}' brings it"
