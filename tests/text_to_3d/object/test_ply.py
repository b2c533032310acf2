"""PLY files: what is written byte by byte, what is read of foreign ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carv_distill.text_to_3d.object.ply import PlyError, read_ply, write_ply

HEAD = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty uchar red\nend_header\n"


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / "a.ply"
    path.write_bytes(content)
    return path


def test_a_file_is_its_header_and_its_numbers(tmp_path: Path) -> None:
    rows = np.array([(1.5, -0.0), (np.pi, 1e-40)], [("x", "f4"), ("scale_0", "f4")])
    write_ply(tmp_path / "a.ply", rows, "y is up")
    head = (
        b"ply\nformat binary_little_endian 1.0\ncomment y is up\nelement vertex 2\nproperty float x\n"
        b"property float scale_0\nend_header\n"
    )
    numbers = np.array([1.5, -0.0, np.pi, 1e-40], "<f4")
    assert (tmp_path / "a.ply").read_bytes() == head + numbers.tobytes()
    assert read_ply(tmp_path / "a.ply").tobytes() == numbers.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes_and_all_types_are_read(tmp_path: Path, order: str) -> None:
    """Elements before the vertices are stepped over, those after them are not looked at."""
    kinds = ["char", "uint8", "short", "uint16", "int32", "uint", "float32", "double"]
    codes = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]
    layout = np.dtype([(f"p{i}", order + code) for i, code in enumerate(codes)])
    rows = np.array([tuple(range(1, 9)), tuple(range(11, 19))], layout)
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = [f"ply\r\nformat {name} 1.0\r\nobj_info of a scanner", "element camera 3", "property float f"]
    head += ["element vertex 2", *(f"property {kind} p{i}" for i, kind in enumerate(kinds))]
    head += ["element face 9", "property list uchar int vertex_indices", "end_header\n"]
    content = "\n".join(head).encode() + np.arange(3, dtype=order + "f4").tobytes() + rows.tobytes()
    found = read_ply(file_of(tmp_path, content + b"\x03"))
    assert found.tolist() == rows.tolist()


def test_text_is_read(tmp_path: Path) -> None:
    found = read_ply(file_of(tmp_path, HEAD + b"0.1 255\n-2e-3 0\n3 0 1 2"))
    assert found["x"].tolist() == [np.float32(0.1), np.float32(-2e-3)]
    assert found["red"].tolist() == [255, 0]


def test_no_vertices_are_no_rows(tmp_path: Path) -> None:
    for kind in ("ascii", "binary_little_endian"):
        head = f"ply\nformat {kind} 1.0\nelement vertex 0\nproperty float x\nend_header\n"
        assert len(read_ply(file_of(tmp_path, head.encode()))) == 0


BINARY = b"ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "its header does not end"),
        (b"plyx\n" + HEAD[4:], "does not begin with the line ply"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is no PLY file"),
        (HEAD.replace(b"end_header", b"x"), "its header has the line 'x'"),
        (b"ply\nelement vertex 0\nproperty float x\nend_header\n", "its header has no format, one of ascii"),
        (HEAD.replace(b"1.0", b"2.0"), "the line 'format ascii 2.0'"),
        (HEAD.replace(b"float", b"half"), "the line 'property half x'"),
        (HEAD.replace(b"red", b"x"), "its property x is there twice"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "the line 'property float x'"),
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", "the line 'element vertex -1'"),
        (b"ply\nformat ascii 1.0\nend_header\n", "it has no element vertex"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\nend_header\n", "its element vertex has no properties"),
        (HEAD + b"1 2\n", "it ends within its element vertex, which is to have 2 rows"),
        (HEAD + b"1 2\n3\n\n\n\n", r"row 1 has 1 numbers, and its header 2 properties"),
        (HEAD + b"1 2\n3 4 5\n", r"row 1 has 3 numbers"),
        (HEAD + b"1 2\n3 256\n", "red of row 1 is 256, which is no uint8"),
        (HEAD + b"1 2.5\n3 4\n", "red of row 0 is 2.5, which is no uint8"),
        (HEAD + b"1 nan\n3 4\n", "red of row 0 is nan, which is no uint8"),
        (HEAD + b"1 2\nthree 4\n", "could not convert string to float"),
        (
            BINARY + b"element vertex 4\nproperty float x\nend_header\n" + bytes(15),
            "it ends within its element vertex, which is to have 4 rows",
        ),
        (
            BINARY + b"element vertex 99999999999999999\nproperty double x\nend_header\n" + bytes(15),
            "it ends within its element vertex",
        ),
        (
            BINARY + b"element vertex 1\nproperty list uchar float x\nend_header\n" + bytes(15),
            "its vertices have lists",
        ),
        (
            BINARY + b"element face 1\nproperty list uchar int i\nelement vertex 1\nproperty float x\n"
            b"end_header\n" + bytes(15),
            "its element face, which has lists, stands before the vertices",
        ),
        (b"ply\n" + b"comment\n" * 20_000, "its header does not end"),
        (b"ply\n" + b"comment" * 20_000, "its header does not end"),
    ],
)
def test_what_is_no_ply_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(PlyError, match=said) as found:
        read_ply(file_of(tmp_path, content))
    assert str(found.value).startswith(str(tmp_path / "a.ply"))
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlyError, match=r"none\.ply cannot be read \(No such file"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(PlyError, match="cannot be read"):
        read_ply(tmp_path)
