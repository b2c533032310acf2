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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class _Unpickler(pickle.Unpickler):
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
            "builtins.set": set,
            "builtins.dict": dict,
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
        raise _ForbiddenError(f"persistent id {str(pid)[:80]!r}")

    # ---------------------------------------------------------------- stand-ins for functions

    def _persistent(self, meta: Any) -> Record:
        """Class name and state; the file's `module_src` is let go."""
        record = _inert_class(str(meta["class_name"]))()
        record.__setstate__(meta["state"])
        return record

    def _storage(self, content: bytes) -> Tensor:
        """A storage of torch.save's older format, as a flat tensor; torch's own allow-list reads it."""
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
            raise pickle.UnpicklingError(f"an object of class {kind!r}")
        return kind()

    def _inert_call(self, *args: Any) -> Record:
        return _inert_class("array")(*args)


def _inert_mapping() -> type[dict[Any, Any]]:
    """A dict that takes no attributes, whatever state the file has for it."""
    return type("Mapping", (dict,), {"__slots__": (), "__setstate__": lambda mapping, state: None})


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
