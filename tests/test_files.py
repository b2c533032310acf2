import json
import os
import re
import stat
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.files import (
    atomic_file,
    destination,
    read_json,
    write_json,
    write_text,
)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_complete_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for content in ({"fid": 1.5}, {"fid": 2.5}):
        write_json(path, content)
        assert json.loads(path.read_text()) == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_without_replace_the_first_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also where the file system has no hard links."""

    def refused(*_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "numbers"
    with atomic_file(path, replace=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), atomic_file(path, replace=False) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_null_for_what_it_cannot_hold(tmp_path: Path) -> None:
    """A measurement with one NaN is not lost."""
    path = tmp_path / "a.json"
    write_json(path, {"fid": float("nan"), "all": [1.0, {"x": float("inf")}], "text": "\udcff"})
    assert json.loads(path.read_text()) == {"fid": None, "all": [1.0, {"x": None}], "text": "\udcff"}


def test_a_device_and_a_folder_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, what in (("pipe", "device or a pipe"), ("link", "device or a pipe"), (".", "a folder")):
        with pytest.raises(UserError, match=what), atomic_file(tmp_path / name):
            raise AssertionError
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"


def test_a_destination_is_looked_at_before_the_work(tmp_path: Path) -> None:
    """Its folder is made; what cannot be is one line with the option."""
    with destination(tmp_path / "new/deep/a.json", "--out"):
        assert list((tmp_path / "new/deep").iterdir()) == []
    assert (tmp_path / "new/deep").is_dir()
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path, "is a folder"),
        (Path("/dev/null"), "is a device"),
        (tmp_path / "file/a.json", "cannot be written"),
        (tmp_path / ("x" * 300) / "a.json", "cannot be written"),
        (Path("/proc/nowhere/a.json"), "cannot be written"),
    ):
        with pytest.raises(UserError, match=f"^--out: .*{why}"), destination(place, "--out"):
            pass


def test_a_refusal_leaves_no_empty_folder(tmp_path: Path) -> None:
    """Folders made for a result go again where nothing came of it; those that hold something stay."""

    def refused(place: str, store: str) -> None:
        with destination(tmp_path / place, "--out"):
            if store:
                (tmp_path / store).touch()
            raise UserError("no")

    (tmp_path / "there").mkdir()
    for place, store in (("new/deep/a.json", ""), ("there/a.json", ""), ("there/new/a.json", "there/new/b")):
        with pytest.raises(UserError, match="no"):
            refused(place, store)
        assert [path.name for path in (tmp_path / "there").iterdir()] == (["new"] if store else [])
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 5000, b'{"a": NaN', b"{} {}", b"\x00"]
)
def test_a_damaged_json_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} is not (JSON: |a JSON object)"):
        read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
