"""From the records of a published EDM pickle to a network and its noise levels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from carv_distill.errors import UserError, one_line, shown
from carv_distill.teachers.schedule import EDMSchedule

from .networks import DhariwalUNet, SongUNet
from .unet import EDMUNet
from .unpickle import Record

_NETWORKS: dict[str, type[EDMUNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}

_UNSUPPORTED = {
    "Precond": "EDM2",
    "VPPrecond": "the VP baseline",
    "VEPrecond": "the VE baseline",
    "iDDPMPrecond": "iDDPM",
}
"""What else is published as such pickles, by the class of its preconditioning: other levels and scalings."""
_LARGEST = 100_000
"""Of a network's arguments; ImageNet's has 1,000 classes."""
_MOST = 64
"""Blocks at a side, or entries of a list."""
_MODULES = 10_000
"""Of a network; ImageNet's has 700, and a file may hold one of its modules many times."""
_DEEPEST = 8
"""Modules within modules; a file may be made to contain itself."""


class PublishedTeacher(NamedTuple):
    """What a file holds: the averaged network, its noise levels, the standard deviation of its data."""

    network: EDMUNet
    schedule: EDMSchedule
    sigma_data: float


def published_teacher(content: Any, source: str) -> PublishedTeacher:
    """The EDM-preconditioned network under the key `ema`.

    σ_min, σ_max are 0.002 and 80 as in the paper unless the file limits them; ρ is 7.

    Args:
        content: of the pickle at `source`, by :func:`~.unpickle.read_pickle`.

    Raises:
        UserError: there is no `ema`, or not such a network with whole tensors in it.

    Source: Karras et al. 2022 (EDM), table 1 and section 5 (noise levels).
    """
    if not isinstance(content, Mapping) or "ema" not in content:
        keys = ", ".join(map(_name, content)) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"{source} has no key ema, as EDM's network pickles have; found: {keys[:200] or 'nothing'}"
        )
    _refuse_others(content["ema"], source)
    outer = _record(content["ema"], ("EDMPrecond",), "ema", source)
    inner = _record(_child(outer, "_modules").get("model"), tuple(_NETWORKS), "ema.model", source)
    network = _build(inner, source)
    _check_size(network, source)
    _fill(network, _tensors(inner, source), source)
    paper = EDMSchedule()
    low = _number(outer, "sigma_min", 0, source) or paper.sigma_min
    high = min(_number(outer, "sigma_max", math.inf, source), paper.sigma_max)
    if low >= high:
        raise UserError(f"{source}: ema.sigma_min is {low:g}, not below sigma_max, {high:g}")
    return PublishedTeacher(
        network, EDMSchedule(low, high, paper.rho), _number(outer, "sigma_data", 0.5, source)
    )


def _refuse_others(value: Any, source: str) -> None:
    name = value.class_name if isinstance(value, Record) else ""
    if kind := _UNSUPPORTED.get(name):
        raise UserError(
            f"{source}: a network of {kind} (its class is {name}), which is not supported; EDM's own are, "
            "SongUNet and DhariwalUNet with EDM's preconditioning (files edm-….pkl)"
        )


def _record(value: Any, allowed: tuple[str, ...], place: str, source: str) -> Record:
    if isinstance(value, Record) and value.class_name in allowed:
        return value
    name = value.class_name if isinstance(value, Record) else type(value).__name__
    raise UserError(f"{source}: {place} is a {name}, not one of {', '.join(allowed)}")


def _child(record: Record, key: str) -> Mapping[str, Any]:
    child = record.state.get(key)
    return child if isinstance(child, Mapping) else {}


def _number(record: Record, key: str, default: float, source: str) -> float:
    entry = record.state.get(key, default)
    value = float(entry) if type(entry) is int and abs(entry) < 1 << 53 else entry
    if type(value) is not float or not value >= 0:
        raise UserError(f"{source}: ema.{key} is {shown(entry)}, not a number from 0 on")
    return value


def _build(record: Record, source: str) -> EDMUNet:
    """The network by the arguments that the file's was made with, its tensors still without content."""
    kind = _NETWORKS[record.class_name]
    names = list(inspect.signature(kind.__init__).parameters)[1:]
    positional = record.state.get("_init_args")
    in_order = positional if isinstance(positional, list | tuple) else ()
    arguments = dict(zip(names, in_order, strict=False)) | dict(_child(record, "_init_kwargs"))
    for name, value in arguments.items():
        if name not in names:
            raise UserError(
                f"{source}: {record.class_name} takes no {_name(name)!r}; allowed: {', '.join(names)}"
            )
        if not _is_plain(value):
            raise UserError(
                f"{source}: {record.class_name}'s {name} is a {type(value).__name__}, not plain: a word, a "
                f"number up to {_LARGEST:,}, or at most {_MOST} numbers"
            )
    if isinstance(blocks := arguments.get("num_blocks"), int | float) and blocks > _MOST:
        raise UserError(f"{source}: {record.class_name}'s num_blocks is {blocks}; at most {_MOST} are read")
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError, AttributeError) as error:
        raise UserError(f"{source}: no {record.class_name} of that kind: {one_line(error)}") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _MOST and all(not isinstance(v, list | tuple) and _is_plain(v) for v in value)
    return isinstance(value, str) or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def _check_size(network: EDMUNet, source: str) -> None:
    """A file that holds a network is at least as large as its numbers in half precision."""
    numbers = sum(t.numel() for t in network.state_dict().values())
    size = Path(source).stat().st_size
    if 2 * numbers > size:
        raise UserError(f"{source}: a network of {numbers:,} numbers does not fit into {size:,} bytes")


def _tensors(network: Record, source: str) -> dict[str, Any]:
    """Parameters and persistent buffers by the names that a state_dict gives them."""
    tensors: dict[str, Any] = {}
    pending, count = [("", network)], 0
    while pending:
        prefix, record = pending.pop()
        if (count := count + 1) > _MODULES:
            raise UserError(
                f"{source}: more than {_MODULES:,} modules within modules; no network here has them"
            )
        passing = record.state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, value in _child(record, kind).items():
                if value is not None and not (isinstance(passing, set) and name in passing):
                    tensors[f"{prefix}{_name(name)}"] = value
        if prefix.count(".") < _DEEPEST:
            children = _child(record, "_modules").items()
            pending += [(f"{prefix}{_name(n)}.", c) for n, c in children if isinstance(c, Record)]
    return tensors


def _name(key: Any) -> str:
    """A key in a message."""
    return key[:100] if isinstance(key, str) else shown(key)


def _fill(network: EDMUNet, tensors: Mapping[str, Any], source: str) -> None:
    """The file's tensors become the network's, in float32."""
    expected: dict[str, Tensor] = network.state_dict()
    if lacking := expected.keys() - tensors.keys():
        raise UserError(
            f"{source} lacks {len(lacking)} of the network's tensors, such as {min(lacking)}; it needs "
            f"{len(expected)}"
        )
    if beyond := tensors.keys() - expected.keys():
        raise UserError(
            f"{source} has {len(beyond)} tensors that the network has no place for, such as {min(beyond)!r}; "
            f"allowed are {len(expected)}"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{source}: {name} is not a floating-point tensor but {kind}")
        if value.shape != expected[name].shape:
            shapes = tuple(value.shape), tuple(expected[name].shape)
            raise UserError(f"{source}: {name} has shape {shapes[0]}, the network {shapes[1]}")
        if not value.isfinite().all():
            raise UserError(f"{source}: {name} has values that are not finite")
    whole = {name: value.float().contiguous().clone() for name, value in tensors.items()}
    network.load_state_dict(whole, assign=True)
    network.requires_grad_(False).eval()
