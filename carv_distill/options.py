"""Fields of a configuration that carry what is allowed, and what a resumed run may change."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from difflib import SequenceMatcher, get_close_matches
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_type_hints

from carv_distill.errors import UserError

Section = TypeVar("Section")
Schedule = Any
"""A number, or a list of numbers. Any, as OmegaConf has no union of the two."""
Stages = Annotated[Any, int]
"""A whole number, or a list of these in pairs of a step and what holds from it on; Any as above."""


def option(default: Any = MISSING, *, metavar: str | None = None) -> Any:
    """A value of any kind.

    Args:
        metavar: what a command's help calls it.
    """
    return field(default=default, metadata={"metavar": metavar})


def at_least(low: float, default: Any = MISSING, *, resume: bool = False) -> Any:
    """A number ≥ low; None is allowed where it is the default.

    Args:
        resume: a run that goes on may have another value, as nothing that is trained depends on it.
    """
    return field(default=default, metadata={"low": low, "resume": resume})


def more_than(low: float, default: Any = MISSING, *, high: float | None = None) -> Any:
    """A number > low, and ≤ high where that is given; None is allowed where it is the default."""
    limit = {} if high is None else {"high": high}
    return field(default=default, metadata={"above": low, **limit})


def between(low: float, high: float, default: Any = MISSING) -> Any:
    """A number in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def scheduled(
    default: float, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> Any:
    """A number ≥ low, > above, ≤ high, or a list that says how it changes with the step; the section's task
    says what lists mean, and checks them."""
    limits = {"low": low, "above": above, "high": high}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"schedule": True, **given})


def staged(default: int | None, *, low: int = 1) -> Any:
    """A whole number ≥ low, or a list [0, number, step, number, …] that says from which step on which; the
    section's task checks lists. None is allowed where it is the default."""
    return field(default=default, metadata={"stages": True, "low": low})


def seed_option(default: Any = MISSING) -> Any:
    """A seed: one limit for all, that of the generators with the least room (Lightning's, numpy's)."""
    return between(0, 2**32 - 1, default)


def one_of(choices: Iterable[str], default: Any = MISSING, *, resume: bool = False) -> Any:
    """One of the names; `resume` as for :func:`at_least`."""
    return field(default=default, metadata={"choices": tuple(choices), "resume": resume})


def some_of(choices: Iterable[str], *default: str, resume: bool = False) -> Any:
    """A list of some of the names, each once; `resume` as for :func:`at_least`."""
    metadata = {"choices": tuple(choices), "resume": resume}
    return field(default_factory=lambda: list(default), metadata=metadata)


def place(
    default: Any = MISSING,
    *,
    hub: bool = False,
    resume: bool = False,
    content: bool = False,
    begin: str = "",
) -> Any:
    """A file or folder, looked for beside the configuration first, then in the working folder.

    Args:
        hub: a model's id on the hub is allowed too.
        resume: as for :func:`at_least`.
        content: a run that goes on needs the same content, wherever it lies.
        begin: only a run that begins needs it; says what begins with it, as "a student begins".
    """
    metadata = {"place": True, "hub": hub, "resume": resume, "content": content, "begin": begin}
    return field(default=default, metadata=metadata)


def as_in(kind: type, name: str) -> Any:
    """A value with the limits of a section's field; None, its default, leaves that field as it is."""
    metadata = next(spec.metadata for spec in fields(kind) if spec.name == name)
    return field(default=None, metadata=metadata)


def section(kind: Callable[[], Section], *, resume: bool = False) -> Section:
    """A section of its own; with `resume` a run that goes on may change all of it."""
    made: Section = field(default_factory=kind, metadata={"resume": resume})
    return made


def field_texts(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, and of those it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for spec, text in pairwise(tree.body):
            if not isinstance(spec, ast.AnnAssign) or not isinstance(spec.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[spec.target.id] = " ".join(str(text.value.value).split())
    return texts


def option_text(kind: type, key: str) -> str:
    """The string below the field of a key with dots, in a tree of dataclasses."""
    *sections, name = key.split(".")
    for section_name in sections:
        kind = get_type_hints(kind)[section_name]
    return field_texts(kind).get(name, "")


def likeness(word: str, other: str) -> float:
    """Of two words, from 0 to 1."""
    return SequenceMatcher(None, other, word).ratio()


def nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    """ " (did you mean …?)" or nothing; what is known stands there with a prefix."""
    match = get_close_matches(word, known, n=1, cutoff=0.7)
    return f" (did you mean {prefix}{match[0]}?)" if match else ""


def leaves(
    options: Any, prefix: str = "", resume: bool = False
) -> Iterator[tuple[str, Field[Any], Any, bool]]:
    """Every value of a tree of dataclasses: (key with dots, its field, the value, whether a resumed run may
    change it)."""
    for spec in fields(options):
        value = getattr(options, spec.name)
        free = resume or bool(spec.metadata.get("resume"))
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{spec.name}.", free)
        else:
            yield f"{prefix}{spec.name}", spec, value, free


def check_limits(options: Any) -> None:
    """Checks every field of a tree of dataclasses against its limits.

    Raises:
        UserError: naming the key, what was found and what is allowed.
    """
    for key, spec, value, _ in leaves(options):
        limits = spec.metadata
        if value is None:  # where its type allows it
            continue
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"{key}: {value} is not finite")
        if ("schedule" in limits or "stages" in limits) and isinstance(value, list):
            continue
        if "choices" in limits:
            _check_choices(key, value, limits["choices"])
        if "low" in limits and not value >= limits["low"]:
            raise UserError(f"{key}: {value} is below the least allowed value, {limits['low']}")
        if "above" in limits and not value > limits["above"]:
            raise UserError(f"{key}: {value} is not above {limits['above']}")
        if "high" in limits and not value <= limits["high"]:
            raise UserError(f"{key}: {value} is above the greatest allowed value, {limits['high']}")


def _check_choices(key: str, value: Any, choices: Sequence[str]) -> None:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in choices:
            hint = nearest(str(name), list(choices))
            raise UserError(f"{key}: {name!r} is not one of {', '.join(choices)}{hint}")
    if twice := [name for name in choices if names.count(name) > 1]:
        raise UserError(f"{key}: {twice[0]} is named twice")
