"""YAML files with nothing lost: scalars as they were written, keys once, and nothing in them executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from carv_distill.errors import UserError, one_line

LARGEST_FILE = 2**20
"""Bytes of a configuration; a larger file is something else."""


class Scalar(str):
    """A scalar of a YAML that is no text there: as it was written, and what YAML takes it for."""

    value: Any

    def __repr__(self) -> str:
        return str(self)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping of keys to mappings, lists, texts, None and :class:`Scalar`; nothing in it is executed.

    Raises:
        UserError: a file that cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"{path}: is larger than {LARGEST_FILE >> 10} KiB and no configuration")
        given = yaml.load(content.decode("utf-8-sig"), _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a configuration: it is nested too deeply") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(given, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values")
    return given


def plain(values: Any) -> Any:
    """What :func:`read_yaml` has read, with every scalar as YAML takes it."""
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, list):
        return [plain(value) for value in values]
    return values.value if isinstance(values, Scalar) else values


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as a YAML that :func:`read_yaml` takes for the same: text that looks like a number is
    quoted."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Keeps what is no text as it was written, refuses keys given twice, and reads 1e-4 as a number."""

    def construct_scalar_value(self, node: yaml.ScalarNode) -> Any:
        """None, text, or a :class:`Scalar`."""
        value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        if node.tag == "tag:yaml.org,2002:str":
            return value
        if value is None:
            return None
        scalar = Scalar(node.value)
        scalar.value = value
        return scalar

    def construct_whole_mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """A mapping whose keys are texts."""
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in result:
                what = "a key that is no word" if key is None else f"the key {key} twice"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=True)
        return result


class _Dumper(yaml.SafeDumper):
    """Quotes what :class:`_Loader` would not take for text."""


_SHORT_FLOAT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {k: list(v) for k, v in _side.yaml_implicit_resolvers.items()}
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _SHORT_FLOAT, list("-+0123456789"))
for _tag in ("null", "bool", "int", "float", "timestamp", "str", "binary"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_scalar_value)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_whole_mapping)
