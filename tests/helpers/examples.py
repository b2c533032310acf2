"""Files of `examples/` as modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests.helpers.small import ROOT

EXAMPLES = ROOT / "examples"


def load(path: str) -> ModuleType:
    """A script, or a folder's `__init__.py`, by its path in `examples/`; in `sys.modules` under its own name,
    as a program that takes extensions has it."""
    place = EXAMPLES / path
    name = place.parent.name if place.name == "__init__.py" else place.stem
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
