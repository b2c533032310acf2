"""Pickles of the published form, written through stand-ins for the modules that such files name."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.helpers.edm_networks import CONFIGS, small

SOURCE = "import pathlib\npathlib.Path('ran').touch()\n"
"""What the files carry as source code; it must never run."""
Refused = Callable[..., str]
"""The fixture `refused`."""


def inject(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `torch_utils.persistence` and `dnnlib.util` where pickle.dump looks for them."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    _reconstruct.__module__, _reconstruct.__qualname__ = persistence.__name__, "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct  # type: ignore[attr-defined]
    EasyDict.__module__, util.EasyDict = util.__name__, EasyDict  # type: ignore[attr-defined]
    for module in (persistence, util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, module.__name__.split(".")[0], types.ModuleType("parent"))


def _reconstruct(meta: Any) -> Any:
    raise AssertionError("the file's own class was asked for")


class Call:
    """A pickle of it calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class EasyDict(dict[str, Any]):
    """Pickled under its published name."""


class Persistent:
    """An object that is written as a class name, its state and source code."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name}
        return _reconstruct, ({**meta, "state": self.state},)


def persistent_module(module: nn.Module, name: str | None = None, **state: Any) -> Any:
    """A module and all within as the published files have them; a ModuleDict stays torch's own."""
    children = OrderedDict((k, persistent_module(m)) for k, m in module._modules.items() if m is not None)
    if isinstance(module, nn.ModuleDict):
        own = nn.ModuleDict()
        own.__dict__["_modules"] = children
        return own
    inside = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers, resample_filter=module._buffers.get("resample_filter")),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": children,
        "skip_scale": np.sqrt(0.5),
    }
    return Persistent(name or type(module).__name__, {**inside, **state})


def published(network: Any, arguments: dict[str, Any], precondition: str = "EDMPrecond", **state: Any) -> Any:
    """The content of a file: the network behind a preconditioning, and what else there is."""
    model = persistent_module(network, _init_args=(), _init_kwargs=arguments)
    outer = {"_modules": OrderedDict(model=model), "_parameters": OrderedDict(), "_buffers": OrderedDict()}
    numbers = {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5, "use_fp16": True, **state}
    loss = Persistent("EDMLoss", {"P_mean": -1.2, "weights": np.arange(3.0)})
    return {
        "ema": Persistent(precondition, {**outer, **numbers}),
        "loss_fn": loss,
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(path="x.zip", resolution=32),
    }


def content(name: str = "ddpm++", changes: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What a file of that network holds."""
    return published(small(name, **(changes or {})), {**CONFIGS[name], **(changes or {})}, **options)


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """The file."""
    path.write_bytes(pickle.dumps(content, protocol))
    return path
