"""Values of a configuration by the type of their key: from a YAML, from words of a command line, from Python.

Text is text: the words after a key's first `=` arrive as typed, and a YAML's scalar that is a number or a
truth value for YAML is refused where text is wanted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from carv_distill.errors import UserError
from carv_distill.options import Schedule, Stages, likeness, nearest

from .yaml_files import Scalar

NONE = ("", "null", "~")
"""How a value that may be left out is left out."""
_TRUTHS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_VARIABLE = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)(?:,([^${}]*))?\}")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Source:
    """Where values come from, and whether environment variables may be read."""

    where: str
    """As messages say it: "in runs/a/config.yaml", "on the command line"."""
    environment: bool = False


def typed(schema: type, values: Mapping[Any, Any], source: Source, prefix: str = "") -> dict[str, Any]:
    """A tree of values by the types of a tree of dataclasses; keys that are not given stay away.

    Raises:
        UserError: an unknown key, or a value that its key cannot have.
    """
    hints, result = get_type_hints(schema, include_extras=True), {}
    for key, value in values.items():
        full = f"{prefix}{key}"
        if key not in hints:
            raise UserError(_unknown(full, [f"{prefix}{name}" for name in _keys(schema)], source))
        if not is_dataclass(hints[key]):
            result[key] = value_of(full, hints[key], value, source)
        elif isinstance(value, Mapping):
            result[key] = typed(hints[key], value, source, f"{full}.")
        elif value is not None:
            raise UserError(_no_section(full, value, hints[key], source))
    return result


def with_overrides(
    schema: type, values: dict[str, Any], overrides: Sequence[tuple[str, str]], source: Source
) -> dict[str, Any]:
    """The tree with values replaced by `(key, word)` pairs.

    Raises:
        UserError: as :func:`typed`.
    """
    for key, word in overrides:
        kind: Any = schema
        for part in (parts := key.split(".")):
            if not is_dataclass(kind) or part not in (hints := get_type_hints(kind, include_extras=True)):
                raise UserError(_unknown(key, _keys(schema), source))
            kind = hints[part]
        if is_dataclass(kind):
            raise UserError(_no_section(key, word, kind, source))
        at = values
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        given = word if _base(kind)[0] is str else Scalar(word)
        at[parts[-1]] = value_of(key, kind, given, source, typed_word=True)
    return values


def value_of(key: str, kind: Any, value: Any, source: Source, *, typed_word: bool = False) -> Any:
    """One value by the type of its key.

    Args:
        kind: int | float | bool | str, a list of these, or one of these or None; or a schedule, or stages.
        typed_word: a word of a command line, which can only say by itself that there is no value.

    Raises:
        UserError: naming the key, what was found and what is allowed.
    """
    kind, optional = _base(kind)
    if isinstance(value, str) and "${" in value:
        value = _with_environment(key, value, source)
    if value is None or (typed_word and value in NONE and (optional or kind is not str)):
        if not optional:
            raise UserError(f"{key}: it is empty; give a value, as {key}=…")
        return None
    if value == "???":
        return value  # a value that the user is to give
    if kind is Schedule:
        number = _scalar_of(float, value)
        if number is not None:
            return number
        if isinstance(value, str) and not any(mark in value for mark in "[,"):
            raise UserError(f"{key}: {str(value)!r} is not a number, nor a list as [0, 0.98, 0.5, 5000]")
        return _list_of(key, float, value, source)
    if kind == Stages:
        if not isinstance(value, list) and not (isinstance(value, str) and any(m in value for m in "[,")):
            return value_of(key, int, value, source)
        return _list_of(key, int, value, source)
    if get_origin(kind) is list:
        return _list_of(key, get_args(kind)[0], value, source)
    result = _text_of(key, value, source) if kind is str else _scalar_of(kind, value)
    if result is None:
        shown = repr(str(value)) if isinstance(value, str) else repr(value)
        raise UserError(f"{key}: {shown} is not {_KINDS[kind]}")
    return result


def _list_of(key: str, kind: Any, value: Any, source: Source) -> list[Any]:
    if isinstance(value, str):  # a command line's: [1, 2] or 1,2
        if value.strip().startswith("[") != value.strip().endswith("]"):
            raise UserError(f"{key}: {str(value)!r} is not a list, as [1, 2]")
        inside = value.strip().removeprefix("[").removesuffix("]")
        # text is text: quotes around it are for the shell, or of habit
        item = (
            (lambda part: part.strip().strip("\"'")) if kind is str else (lambda part: Scalar(part.strip()))
        )
        value = [item(part) for part in inside.split(",")] if inside.strip() else []
    if not isinstance(value, list | tuple):
        raise UserError(f"{key}: {value!r} is not a list, as [1, 2]")
    return [value_of(f"{key}[{i}]", kind, part, source) for i, part in enumerate(value)]


def _text_of(key: str, value: Any, source: Source) -> str | None:
    if isinstance(value, Scalar):
        raise UserError(
            f'{key}: {value} is not text for YAML; write it in quotes, as "{value}" ({source.where})'
        )
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{key}: {value!a} is not UTF-8; write it in a UTF-8 locale, as LC_ALL=C.UTF-8"
        ) from error
    if control := re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value):
        raise UserError(f"{key}: holds the control character {control[0]!a}")
    return value


def _scalar_of(kind: Any, value: Any) -> Any:
    """None for what is none."""
    if kind is bool:
        found = value if isinstance(value, bool) else _TRUTHS.get(str(value).lower())
        return found if isinstance(value, bool | int | str) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value) if kind is float or isinstance(value, float) else int(value)
    except (ValueError, OverflowError):
        try:
            number = float(value)  # 1e3 steps
        except (ValueError, OverflowError):
            return None
    if kind is float:
        return float(number)
    whole = isinstance(number, int) or number.is_integer()
    return int(number) if whole and abs(number) < 2**63 else None


def _with_environment(key: str, value: str, source: Source) -> str:
    """The text with ${oc.env:NAME} and ${oc.env:NAME,default} replaced, where that was asked for."""
    if not source.environment:
        raise UserError(
            f"{key}: {value!r} would be replaced by something from outside; --env allows "
            f"${{oc.env:NAME}}, environment variables ({source.where})"
        )

    def variable(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            raise UserError(f"{key}: the environment variable {name} is not set ({source.where})")
        return found

    result = _VARIABLE.sub(variable, value)
    if "${" in result:
        raise UserError(f"{key}: {value!r}: only ${{oc.env:NAME}} and ${{oc.env:NAME,default}} are replaced")
    return Scalar(result) if isinstance(value, Scalar) else result


def _base(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was part of it."""
    if get_origin(kind) in (UnionType, Union):
        (base,) = (part for part in get_args(kind) if part is not NoneType)
        return base, True
    return kind, False


@cache
def _keys(schema: type, prefix: str = "") -> tuple[str, ...]:
    """All keys of a schema, sections included."""
    return tuple(_iterate_keys(schema, prefix))


def _iterate_keys(schema: type, prefix: str) -> Iterator[str]:
    hints = get_type_hints(schema)
    for spec in fields(schema):
        yield f"{prefix}{spec.name}"
        if is_dataclass(kind := hints[spec.name]):
            assert isinstance(kind, type)
            yield from _keys(kind, f"{prefix}{spec.name}.")


def _unknown(key: str, known: Sequence[str], source: Source) -> str:
    """Names the key that is nearest, and those of the innermost section that there is, the nearest first."""
    section, _, last = key.rpartition(".")
    while section and not any(name.startswith(f"{section}.") for name in known):
        section = section.rpartition(".")[0]
    start = f"{section}." if section else ""
    rest, inside = key.removeprefix(start), [n.removeprefix(start) for n in known if n.startswith(start)]
    # else one of that name in another section, as of draws and estimator.draws
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    meant = nearest(rest, inside, start) or nearest("".join(elsewhere[:1]), elsewhere)
    beside = sorted((n for n in inside if "." not in n), key=lambda n: likeness(rest, n), reverse=True)
    where = f" in {section}" if section else ""
    return f"unknown key {key}{meant} {source.where}; known{where} are {', '.join(beside)}"


def _no_section(key: str, value: Any, kind: Any, source: Source) -> str:
    listed = ", ".join(k for k in _keys(kind, f"{key}."))
    shown = value if isinstance(value, str) else repr(value)
    return f"{key}: {shown} is not a section ({source.where}); its keys are {listed}"
