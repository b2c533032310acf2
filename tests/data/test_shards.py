"""Webdataset shards: what is read, and damage anywhere."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from carv_distill.data import shards
from carv_distill.data.shards import Shards, TarShards
from carv_distill.data.storage import FileKind
from carv_distill.errors import UserError
from tests.helpers.captioned_files import tar_of
from tests.helpers.image_files import Files, png

FILES = {f"{i}.{s}": png(i) if s == "png" else f"{i} cats".encode() for i in range(4) for s in ("png", "txt")}


def scan(path: Path, *suffixes: str) -> TarShards:
    return TarShards(Shards.scan(path, [path], suffixes), FileKind("file", suffixes))


def contents(storage: TarShards) -> Files:
    return {storage.name(n): storage.read(n) for n in range(len(storage))}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_by_their_place(form: int, tmp_path: Path) -> None:
    """In the order of their names, whatever the form of tar and the length of a name."""
    names = ["b.png", "./a.png", "folder/x.PNG", "é" * 60 + "/0.png"]
    files = {name: png(i) for i, name in enumerate(names)}
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    storage = scan(path, ".png")
    expected = {f"s.tar/{name.removeprefix('./')}": content for name, content in files.items()}
    assert contents(storage) == expected
    assert [storage.name(n) for n in range(4)] == sorted(expected)
    assert [storage.size(n) for n in range(4)] == [len(expected[name]) for name in sorted(expected)]
    assert contents(pickle.loads(pickle.dumps(storage))) == expected


def test_what_is_of_no_use_is_passed_over(tmp_path: Path) -> None:
    """Of a key with a dot, hidden, of another kind."""
    other = ("0.seg.png", "0.cls", "._0.png", "__MACOSX/0.png", ".d/0.png", "png", "0.npy")
    (tmp_path / "s.tar").write_bytes(tar_of(dict.fromkeys(other, b"x") | FILES))
    assert set(contents(scan(tmp_path / "s.tar", ".png"))) == {f"s.tar/{i}.png" for i in range(4)}


def test_two_shards_may_have_the_same_keys(tmp_path: Path) -> None:
    paths = [tmp_path / "0.tar", tmp_path / "part" / "1.tar"]
    paths[1].parent.mkdir()
    for i, path in enumerate(paths):
        path.write_bytes(tar_of({"k.png": png(i)}))
    storage = TarShards(Shards.scan(tmp_path, paths, (".png",)))
    assert contents(storage) == {"0.tar/k.png": png(0), "part/1.tar/k.png": png(1)}


def linked(kind: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        info = tarfile.TarInfo("0.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    return content.getvalue()


WHOLE = tar_of(FILES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a whole, uncompressed tar file"),
        (b"junk" * 1000, "is not a whole, uncompressed tar file"),
        (WHOLE[:700], "is not a whole, uncompressed tar file"),
        (WHOLE[: 512 * 3 + 100], "is (not a whole|cut short)"),
        (WHOLE.rstrip(b"\0"), "is (not a whole|cut short)"),
        (WHOLE[: 2 * 512], "is cut short: no block of zeros"),
        (WHOLE + WHOLE, "is damaged after 8 members, or two tar files lie in it"),
        (WHOLE[:1024] + b"?" + WHOLE[1025:], "is damaged after 1 members"),
        (linked(tarfile.SYMTYPE), r"0\.png is a link"),
        (linked(tarfile.LNKTYPE), r"0\.png is a link"),
        (linked(tarfile.FIFOTYPE), r"0\.png is a link or another thing"),
    ],
)
def test_files_that_are_no_whole_shards_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(UserError, match=rf"s\.tar.* {message}|s\.tar: {message}") as caught:
        scan(tmp_path / "s.tar", ".png", ".txt")
    assert "\n" not in str(caught.value)


def test_one_name_twice_and_one_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of({"a.png": b"1", "./a.png": b"2"}))
    with pytest.raises(UserError, match=r"s\.tar holds a\.png twice"):
        scan(path, ".png")
    monkeypatch.setattr(shards, "LARGEST_FILE", 10)
    path.write_bytes(tar_of({"a.png": b"1" * 11}))
    with pytest.raises(UserError, match=r"a\.png has 11 bytes; at most 10"):
        scan(path, ".png")


def test_a_shard_that_shrinks_or_goes_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(WHOLE)
    storage = scan(path, ".png")
    path.write_bytes(WHOLE[:600])
    with pytest.raises(UserError, match=r"s\.tar is cut short, within s\.tar/3\.png"):
        storage.read(3)
    path.unlink()
    with pytest.raises(UserError, match=r"s\.tar: cannot be read \(No such file"):
        storage.read(0)


def test_shards_that_are_damaged_anywhere_are_a_line(tmp_path: Path) -> None:
    """Any byte of the headers turned round, and any cut: all the members, or one line."""
    path, rng, refused = tmp_path / "s.tar", np.random.default_rng(0), []
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        headers = [member.offset for member in tar]
    at = rng.choice([h + i for h in headers for i in range(512)], 300, replace=False)
    for i in at:
        path.write_bytes(WHOLE[:i] + bytes([WHOLE[i] ^ 255]) + WHOLE[i + 1 :])
        try:
            assert len(contents(scan(path, ".png", ".txt"))) == 8
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert not any("\n" in line for line in refused)
    for cut in rng.choice(headers[-1] + 1024, 50, replace=False):
        path.write_bytes(WHOLE[:cut])
        with pytest.raises(UserError):
            scan(path, ".png", ".txt")
