"""Reading a published EDM pickle without running anything in it.

A pickle is a program that may call whatever it names. Here every name goes through one allow-list, and what
is allowed becomes an inert record, a plain container or a tensor: nothing that the file names is imported,
and the source code that the file carries is dropped unread. torch.load(weights_only=True) would refuse these
files: they rebuild their objects by a function of EDM's own.
"""

from __future__ import annotations

import io
import pickle
import re
import reprlib
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from carv_distill.errors import UserError, one_line

MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
)
"""What the unpicklers of Python and torch raise on bytes that are no sound pickle."""

_INERT = {
    f"{module}.{name}"
    for module, names in {
        "numpy": "dtype ndarray float16 float32 float64 int32 int64 bool_",
        "torch": "Size device",
        "builtins": "object complex slice range frozenset",
        "pathlib": "Path PosixPath PurePosixPath",
    }.items()
    for name in names.split()
}
_INERT_CALLS = {
    f"numpy.{place}.{name}"
    for place in ("core.multiarray", "_core.multiarray", "core.numeric", "_core.numeric")
    for name in ("scalar", "_reconstruct", "_frombuffer")
}
_TORCH_LAYER = re.compile(r"torch\.nn\.modules\.\w+\.[A-Z]\w*")


class Record:
    """An object of the file: its class's name and its state, with nothing of its behaviour."""

    class_name = ""
    state: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        # Not in __init__, which a pickle need not call.
        record = super().__new__(cls)
        record.state = {}
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what the file gives, and keeps none of it."""

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}


class _Function:
    """A stand-in for a function: it can be called, and a file's BUILD opcode can set nothing on it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _ForbiddenError(Exception):
    """A name that is not on the list."""


def _require_plain(keys: Iterable[Any]) -> None:
    """That none is a tuple: to hash one that holds another twice, thirty times over, takes hours, and a file
    of a kilobyte can say so."""
    for key in keys:
        if isinstance(key, tuple | frozenset):
            raise pickle.UnpicklingError(f"a {type(key).__name__} where a name belongs")


def _guarded(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """What an opcode does, once those of the stack's items that it will hash are seen to be plain."""
    load: Callable[[Any], None] = pickle._Unpickler.dispatch[opcode[0]]

    def guarded(unpickler: Any) -> None:
        _require_plain(unpickler.stack[keys])
        load(unpickler)

    return guarded


class BoundedUnpickler(pickle._Unpickler):
    """Python's unpickler in Python, whose work is bounded by the file's length: it hashes no nested keys."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: _guarded(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _guarded(pickle.SETITEMS, slice(0, None, 2)),
        pickle.DICT[0]: _guarded(pickle.DICT, slice(0, None, 2)),
        pickle.ADDITEMS[0]: _guarded(pickle.ADDITEMS, slice(0, None)),
        pickle.FROZENSET[0]: _guarded(pickle.FROZENSET, slice(0, None)),
    }


class _Looking(BoundedUnpickler):
    """Goes through a pickle and makes nothing of it."""

    def find_class(self, module: str, name: str) -> Any:
        return _inert_class("Any")

    def persistent_load(self, pid: Any) -> Any:
        return None


class _Unpickler(BoundedUnpickler):
    """Gives inert stand-ins for the names on the list; raises :class:`_ForbiddenError` for all others.

    The stand-ins are made anew for each file, so that a file's BUILD opcodes change nothing that lasts.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self._names: dict[str, Any] = {
            "torch_utils.persistence._reconstruct_persistent_obj": _Function(self._persistent),
            "torch.storage._load_from_bytes": _Function(self._storage),
            "torch._utils._rebuild_tensor": _Function(self._tensor),
            "torch._utils._rebuild_tensor_v2": _Function(self._tensor),
            "torch._utils._rebuild_parameter": _Function(self._parameter),
            "torch._utils._rebuild_parameter_with_state": _Function(self._parameter),
            "collections.OrderedDict": _inert_mapping(),
            "dnnlib.util.EasyDict": _inert_mapping(),
            "builtins.set": _Function(self._set),
            "builtins.dict": _inert_mapping(),
            "builtins.list": list,
            "builtins.tuple": tuple,
            "_codecs.encode": _Function(self._latin1),
            "copyreg._reconstructor": _Function(self._reconstructor),
        }

    def find_class(self, module: str, name: str) -> Any:
        # Python 2's names, which protocols 0 to 2 write
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if full not in self._names:
            self._names[full] = self._stand_in(full)
        return self._names[full]

    def _stand_in(self, full: str) -> Any:
        if full in _INERT or _TORCH_LAYER.fullmatch(full):
            return _inert_class(full.rpartition(".")[2])
        if full in _INERT_CALLS:
            return _Function(self._inert_call)
        raise _ForbiddenError(full)

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenError(f"persistent id {reprlib.repr(pid)}")

    # ---------------------------------------------------------------- stand-ins for functions

    def _persistent(self, meta: Any) -> Record:
        """Class name and state; the file's `module_src` is dropped."""
        if not isinstance(name := meta["class_name"], str):
            raise pickle.UnpicklingError(f"a {type(name).__name__} where a class's name belongs")
        record = _inert_class(name)()
        record.__setstate__(meta["state"])
        return record

    def _set(self, items: Any = ()) -> set[Any]:
        _require_plain(items)
        return set(items)

    def _storage(self, content: bytes) -> Tensor:
        """A storage of torch.save's older format, as a flat tensor; torch's own allow-list reads it."""
        _look_at_storage(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on storages with a dtype, which older files are made of
            try:
                storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                if named := re.search(r"GLOBAL (\S+)", str(error)):
                    raise _ForbiddenError(named[1]) from error
                raise
            if not isinstance(storage, torch.TypedStorage):
                raise pickle.UnpicklingError(f"a {type(storage).__name__} where a tensor's storage belongs")
            return torch.empty(0, dtype=storage.dtype).set_(storage.untyped())

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
        if not isinstance(storage, Tensor):
            raise pickle.UnpicklingError("a tensor without a storage")
        return torch.as_strided(storage, size, stride, offset)  # refuses what lies outside

    def _parameter(self, data: Any, *rest: Any) -> Any:
        return data

    def _latin1(self, text: str, encoding: str = "latin1") -> bytes:
        return text.encode("latin1")

    def _reconstructor(self, kind: Any, *rest: Any) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, Record | dict)):
            raise pickle.UnpicklingError(f"an object of class {reprlib.repr(kind)}")
        return kind()

    def _inert_call(self, *args: Any) -> Record:
        return _inert_class("array")(*args)


def _inert_mapping() -> type[dict[Any, Any]]:
    """A dict that takes no attributes, whatever state the file has for it."""

    def fill(mapping: dict[Any, Any], items: Any = ()) -> None:
        pairs = [(key, value) for key, value in (items.items() if isinstance(items, dict) else items)]
        _require_plain(key for key, _ in pairs)
        mapping.update(pairs)

    attributes = {"__slots__": (), "__init__": fill, "__setstate__": lambda mapping, state: None}
    return type("Mapping", (dict,), attributes)


def _look_at_storage(content: bytes) -> None:
    """Goes through the pickles that torch.save's older format begins with, before torch's unpickler, which
    hashes whatever keys there are."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError(f"a {type(content).__name__} where a tensor's storage belongs")
    file = io.BytesIO(content)
    for _ in range(5):  # magic number, version, machine, storage, keys
        _Looking(file).load()


def _inert_class(name: str) -> type[Record]:
    name = " ".join(name.split())[:80]
    return type(name, (Record,), {"class_name": name})


def read_pickle(path: Path) -> Any:
    """The content of a pickle: plain values, tensors, and :class:`Record` for everything else.

    Raises:
        UserError: naming the file: it names a global that is not allowed, is no pickle, or is cut off.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise UserError(f"{path} is not a pickle, but a zip, such as a torch checkpoint")
        file.seek(0)
        try:
            return _Unpickler(file).load()
        except _ForbiddenError as error:
            raise UserError(
                f"{path}: refused, as it names {one_line(error)}; allowed are the classes of EDM's networks, "
                "containers, tensors and numpy's numbers"
            ) from error
        except MALFORMED as error:
            raise UserError(f"{path} is not a pickle, or is cut off or damaged: {one_line(error)}") from error
