"""PLY files: the table of their vertices.

Our own, as the library that is usual for it (plyfile) has a licence (GPL 3) that this package's users would
have to take over, and trimesh keeps other properties than a mesh's in a private place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from carv_distill.errors import UserError

_TYPES = {
    name: code
    for code, names in {
        "i1": ("char", "int8"),
        "u1": ("uchar", "uint8"),
        "i2": ("short", "int16"),
        "u2": ("ushort", "uint16"),
        "i4": ("int", "int32"),
        "u4": ("uint", "uint32"),
        "f4": ("float", "float32"),
        "f8": ("double", "float64"),
    }.items()
    for name in names
}
_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_LINE, _MOST_LINES = 4096, 10_000


class PlyError(UserError):
    """A file that is no PLY, or half of one."""


def write_ply(path: Path, vertices: NDArray[np.void], comment: str = "") -> None:
    """Binary, little endian, with the fields of a structured array, all of them float32, as properties."""
    names = vertices.dtype.names or ()
    lines = ["ply", "format binary_little_endian 1.0", *([f"comment {comment}"] if comment else [])]
    lines += [f"element vertex {len(vertices)}", *(f"property float {name}" for name in names), "end_header"]
    packed = vertices.astype([(name, "<f4") for name in names])
    path.write_bytes("".join(f"{line}\n" for line in lines).encode() + packed.tobytes())


def read_ply(path: Path) -> NDArray[np.void]:
    """The vertices, a structured array; other elements are passed over.

    Raises:
        PlyError: it cannot be read, is no PLY, ends early, or has its vertices behind lists.
    """
    try:
        with path.open("rb") as file:
            return _vertices(file)
    except OSError as error:
        raise PlyError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise PlyError(f"{path} is no PLY file that can be read: {error}") from error


def _vertices(file: BinaryIO) -> NDArray[np.void]:
    style, elements = _header(file)
    for name, count, properties in elements:
        if not properties:
            raise ValueError(f"its element {name} has no properties")
        if any(kind is None for _, kind in properties):
            if name == "vertex":
                raise ValueError("its vertices have lists")
            raise ValueError(f"its element {name}, which has lists, stands before the vertices")
        layout = np.dtype([(label, _ORDERS[style] + str(kind)) for label, kind in properties])
        # at least a digit and a blank for each number: what a header promises is not believed
        least = count * (2 * len(properties) if style == "ascii" else layout.itemsize)
        if least > os.fstat(file.fileno()).st_size - file.tell() + (style == "ascii"):
            raise ValueError(f"it ends within its element {name}, which is to have {count} rows")
        if style == "ascii":
            table = _from_text(file, count, layout)
        else:
            table = np.frombuffer(file.read(least), layout, count)
        if name == "vertex":
            return table
    raise ValueError("it has no element vertex")


Property = tuple[str, str | None]
"""Name and numpy's code of its type, None for a list."""


def _header(file: BinaryIO) -> tuple[str, list[tuple[str, int, list[Property]]]]:
    """ascii | binary_little_endian | binary_big_endian; and of each element name, rows and properties."""
    lines = _header_lines(file)
    if next(lines, []) != ["ply"]:
        raise ValueError("it does not begin with the line ply")
    style, elements = "", list[tuple[str, int, list[Property]]]()
    for words in lines:
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", found, "1.0"] if found in _ORDERS:
                style = found
            case ["element", name, number] if number.isdecimal():
                elements.append((name, int(number), []))
            case ["property", "list", count, kind, name] if elements and {count, kind} <= _TYPES.keys():
                elements[-1][2].append((name, None))
            case ["property", kind, name] if elements and kind in _TYPES:
                if name in dict(elements[-1][2]):
                    raise ValueError(f"its property {name} is there twice")
                elements[-1][2].append((name, _TYPES[kind]))
            case _:
                raise ValueError(f"its header has the line {' '.join(words)[:80]!r}")
    if not style:
        raise ValueError(f"its header has no format, one of {', '.join(_ORDERS)}")
    return style, elements


def _header_lines(file: BinaryIO) -> Iterator[list[str]]:
    for _ in range(_MOST_LINES):
        line = file.readline(_LONGEST_LINE)
        words = line.decode("ascii", "replace").split()
        if words == ["end_header"]:
            return
        if not line.endswith(b"\n"):
            break
        yield words
    raise ValueError("its header does not end")


def _from_text(file: BinaryIO, count: int, layout: np.dtype[np.void]) -> NDArray[np.void]:
    table, names = np.empty(count, layout), layout.names or ()
    for row in range(count):
        words = file.readline().split()
        if len(words) != len(names):
            raise ValueError(f"row {row} has {len(words)} numbers, and its header {len(names)} properties")
        for name, word in zip(names, words, strict=True):
            value, kind = float(word), layout[name]
            if kind.kind in "iu":
                limits = np.iinfo(kind)
                if not (limits.min <= value <= limits.max and value.is_integer()):
                    raise ValueError(f"{name} of row {row} is {word.decode()}, which is no {kind.name}")
            table[name][row] = value
    return table
