"""Small files that would take hours, or name what is not supported."""

from __future__ import annotations

import io
import pickle
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.edm_pickles import Call, Persistent, Refused, content, write

pytestmark = [pytest.mark.usefixtures("_published_modules"), pytest.mark.timeout(60)]


def nested(depth: int = 60) -> Any:
    """A tuple that holds another twice, and so on: 2^60 names in a kilobyte."""
    item: Any = ("name",)
    for _ in range(depth):
        item = (item, item)
    return item


def opcodes_of(item: Any) -> bytes:
    """Those that make an object, without head and end; memo numbers from 0."""
    return pickle.dumps(item, 2)[2:-1]


def file_of(body: bytes) -> Path:
    Path("x.pkl").write_bytes(b"\x80\x02" + body + b".")
    return Path("x.pkl")


HASHED = {
    "a key of a dict": b"}" + opcodes_of(nested()) + b"K\x01s",
    "keys of a dict": b"}(" + opcodes_of(nested()) + b"K\x01u",
    "a dict of items": b"(" + opcodes_of(nested()) + b"K\x01d",
    "a member of a set": b"\x8f(" + opcodes_of(nested()) + b"\x90",
    "a frozen set": b"(" + opcodes_of(nested()) + b"\x91",
    "a called set": b"c__builtin__\nset\n(](" + opcodes_of(nested()) + b"etR",
    "a called dict": b"c__builtin__\ndict\n(](" + opcodes_of(nested()) + b"K\x01\x86etR",
    "an ordered dict": b"ccollections\nOrderedDict\n(](" + opcodes_of(nested()) + b"K\x01\x86etR",
}


@pytest.mark.parametrize("name", HASHED)
def test_nested_names_are_never_hashed(name: str, refused: Refused) -> None:
    start = time.perf_counter()
    path = file_of(HASHED[name])
    assert path.stat().st_size < 2000
    assert "where a name belongs" in refused(path)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"ema": nested()}, "ema is a tuple"),
        (nested(), "has no key ema"),
        ({"ema": Persistent(nested(), {})}, "a tuple where a class's name belongs"),
        (content(sigma_data=nested()), "ema.sigma_data is "),
        (content(sigma_max=10**20_000), "ema.sigma_max is an astronomical number"),
        ({10**20_000: 1}, "found: an astronomical number"),
    ],
)
def test_nested_names_elsewhere_are_one_short_line(found: Any, message: str, refused: Refused) -> None:
    line = refused(write(Path("x.pkl"), found, 4))
    assert message in line
    assert len(line) < 600


def test_a_nested_argument_is_not_walked_through(refused: Refused) -> None:
    arguments = {
        "_modules": OrderedDict(model=Persistent("SongUNet", {"_init_kwargs": {"dropout": nested()}}))
    }
    line = refused(write(Path("x.pkl"), {"ema": Persistent("EDMPrecond", arguments)}))
    assert "SongUNet's dropout is a tuple, not plain" in line


def test_a_module_held_many_times_is_not_walked_through(refused: Refused) -> None:
    """Eight levels of fifty names for one module each: 50⁸ of them in a few kilobytes."""
    module: Any = Persistent("Linear", {})
    for _ in range(9):
        module = Persistent("Linear", {"_modules": {f"m{i}": module for i in range(50)}})
    whole = content()
    whole["ema"].state["_modules"]["model"].state["_modules"]["more"] = module
    assert "more than 10,000 modules within modules" in refused(write(Path("x.pkl"), whole))


def test_nested_names_within_a_storage(refused: Refused) -> None:
    """torch's own unpickler would hash them."""
    storage = io.BytesIO()
    torch.save(torch.zeros(3).untyped_storage(), storage, _use_new_zipfile_serialization=False)
    bomb = b"\x80\x02}" + opcodes_of(nested()) + b"K\x01s."
    for data in (bomb, storage.getvalue()[:-1] + bomb, bomb + storage.getvalue()):
        line = refused(write(Path("x.pkl"), {"ema": Call(torch.storage._load_from_bytes, data)}))
        assert "is not a pickle, or is cut off or damaged" in line


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Precond", "EDM2"),
        ("VPPrecond", "the VP baseline"),
        ("VEPrecond", "the VE"),
        ("iDDPMPrecond", "iDDPM"),
    ],
)
def test_what_else_is_published_is_named(name: str, kind: str, refused: Refused) -> None:
    whole = content()
    whole["ema"].class_name = name
    line = refused(write(Path("x.pkl"), whole))
    assert f"a network of {kind}" in line
    assert "which is not supported" in line
