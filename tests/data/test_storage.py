"""Other people's folders and zips: what is passed over, what is one name, what is never inflated."""

from __future__ import annotations

import errno
import json
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.data.images import load_images
from carv_distill.data.sets import ImageSet
from carv_distill.errors import UserError
from tests.helpers.image_files import Files, as_folder, as_zip, pictures, png, stored

Write = Callable[[Path, Files], str]
BOTH = pytest.mark.parametrize("write", [as_folder, as_zip])


def named(*names: str) -> Files:
    """Pictures by these names, labelled in turn 0, 1, 0, …"""
    return {name: png(i) for i, name in enumerate(names)}


def index(*entries: object) -> Files:
    return {"dataset.json": json.dumps({"labels": entries}).encode()}


def labels_of(data: ImageSet) -> list[int]:
    return data.batch(torch.arange(len(data)))[1].tolist()


@BOTH
@pytest.mark.parametrize(
    "left",
    [
        "._img0.png",
        "__MACOSX/._img0.png",
        "__MACOSX/img9.png",
        ".ipynb_checkpoints/img0-checkpoint.png",
        "a/.ipynb_checkpoints/img0-checkpoint.png",
        ".Trash-1000/files/old.jpg",
        "@eaDir/img0.png/SYNOFILE_THUMB_M.jpg",
        "$RECYCLE.BIN/x.png",
        ".git/x.png",
    ],
)
@pytest.mark.parametrize("sound", [False, True])
def test_what_systems_leave_is_passed_over(write: Write, left: str, sound: bool, tmp_path: Path) -> None:
    """Even where it is a picture like the others."""
    files = named("img0.png", "img1.png") | {left: png(9) if sound else b"\0\5\26\7junk"}
    data = load_images(stored(write(tmp_path, files | index(["img0.png", 0], ["img1.png", 1]))))
    assert labels_of(data) == [0, 1]
    unlabelled = load_images(stored(write(tmp_path, files), labels=False))
    assert len(unlabelled) == 2


def test_a_data_set_below_a_hidden_folder_is_one(tmp_path: Path) -> None:
    """Only what is inside it counts."""
    (tmp_path / ".cache").mkdir()
    files = named("a.png", "b.png")
    assert len(load_images(stored(as_folder(tmp_path / ".cache", files), labels=False))) == 2


@BOTH
@pytest.mark.parametrize("top", ["data/", "a/b/"])
@pytest.mark.parametrize("beside", [{}, {"README.txt": b"x"}, {"__MACOSX/data/._dataset.json": b"x"}])
def test_one_top_folder_is_the_data_set(write: Write, top: str, beside: Files, tmp_path: Path) -> None:
    plain = pictures()
    files = {top + name: content for name, content in plain.items()} | beside
    for name in ("nested", "plain"):
        (tmp_path / name).mkdir()
    data = load_images(stored(write(tmp_path / "nested", files)))
    expected = load_images(stored(write(tmp_path / "plain", plain)))
    assert labels_of(data) == labels_of(expected)
    assert data.spec == expected.spec


@BOTH
def test_a_folder_that_has_not_all_the_images_is_said(write: Write, tmp_path: Path) -> None:
    files = {f"data/{name}": content for name, content in pictures().items()} | {"more.png": png(7)}
    with pytest.raises(UserError, match=r"dataset\.json is missing \(there is data/dataset\.json\)"):
        load_images(stored(write(tmp_path, files)))


@BOTH
@pytest.mark.parametrize("spelling", ["./a/{}", "a\\{}", ".\\a\\{}", "a//{}", "./a/./{}", "b/../a/{}"])
def test_paths_of_the_index_are_compared_as_paths(write: Write, spelling: str, tmp_path: Path) -> None:
    files = named("a/0.png", "a/1.png") | index([spelling.format("0.png"), 1], [spelling.format("1.png"), 0])
    assert labels_of(load_images(stored(write(tmp_path, files)))) == [1, 0]


@BOTH
@pytest.mark.parametrize(("on_disk", "in_index"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
@pytest.mark.parametrize("word", ["Zoë", "éclair", "Ångström", "가나"])
def test_characters_may_be_composed_or_not(
    write: Write, on_disk: str, in_index: str, word: str, tmp_path: Path
) -> None:
    """HFS+ decomposes the names of files, and `dataset.json` was written elsewhere."""
    name, listed = (unicodedata.normalize(form, f"{word}/x.png") for form in (on_disk, in_index))
    files = named(name, "y.png") | index([listed, 1], ["y.png", 0])
    assert sorted(labels_of(load_images(stored(write(tmp_path, files))))) == [0, 1]


def test_a_folder_with_both_forms_of_one_name_is_refused(tmp_path: Path) -> None:
    files = named(unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png"))
    with pytest.raises(UserError, match=r"holds two files of one name, é\.png"):
        load_images(stored(as_folder(tmp_path, files), labels=False))


def zip_with(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED, flags: int = 0) -> str:
    """A zip whose names are written as they are, backslashes and all, in raw UTF-8."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            file.writestr(info, content)
    return str(path)


def test_backslashes_in_a_zip(tmp_path: Path) -> None:
    members = {f"a\\img{i}.png": png(i) for i in range(4)} | index(
        *([f"a/img{i}.png", i % 2] for i in range(4))
    )
    data = load_images(stored(zip_with(tmp_path / "z.zip", members)))
    assert labels_of(data) == [0, 1, 0, 1]


def test_utf8_names_that_do_not_say_so(tmp_path: Path) -> None:
    """As macOS writes them; by the standard they would be of a code page of DOS."""
    path = Path(
        zip_with(tmp_path / "z.zip", named("é/0.png", "é/1.png") | index(["é/0.png", 1], ["é/1.png", 0]))
    )
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(signature)
        while at >= 0:
            (flags,) = struct.unpack_from("<H", content, at + place)
            struct.pack_into("<H", content, at + place, flags & ~0x800)
            at = content.find(signature, at + 4)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        assert "é/0.png" not in file.namelist()
    assert labels_of(load_images(stored(str(path)))) == [1, 0]


def test_one_name_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = Path(zip_with(tmp_path / "z.zip", named("a.png", "b.png")))
    path.write_bytes(path.read_bytes().replace(b"b.png", b"a.png"))
    with pytest.raises(UserError, match=r"holds a\.png twice"):
        load_images(stored(str(tmp_path / "z.zip"), labels=False))


@pytest.mark.parametrize("way", ["encrypted", "another method"])
def test_a_zip_that_nothing_here_can_read_is_refused(tmp_path: Path, way: str) -> None:
    """Before the run, by the list at the zip's end: no picture is opened for it."""
    path = tmp_path / "z.zip"
    method = zipfile.ZIP_STORED if way == "encrypted" else zipfile.ZIP_BZIP2
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in named("a.png", "b.png").items():
            file.writestr(name, content)
    if way == "encrypted":
        content, entry = bytearray(path.read_bytes()), path.read_bytes().index(b"PK\1\2")
        content[entry + 8] |= 1  # the general purpose flags of the first entry
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"z\.zip: a\.png is encrypted or neither stored nor deflated"):
        load_images(stored(str(path), labels=False))


@pytest.mark.parametrize("name", ["a.png", "dataset.json"])
def test_what_inflates_beyond_reason_is_refused_before_it_is_inflated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carv_distill.data.storage.LARGEST_FILE", 1 << 20)
    monkeypatch.setattr("carv_distill.data.storage.LARGEST_INDEX", 1 << 20)
    members = {"a.png": png(0)} | {name: bytes(1 << 24)}
    path = zip_with(tmp_path / "z.zip", members, zipfile.ZIP_DEFLATED)
    assert os.path.getsize(path) < 1 << 16
    inflated: list[int] = []
    monkeypatch.setattr(zlib, "decompressobj", lambda **_: inflated.append(1))
    with pytest.raises(
        UserError, match=rf"{name} would inflate from 16,\d+ to 16,777,216 bytes; at most 1,048,576"
    ):
        load_images(stored(path, labels=name != "a.png"))
    assert not inflated


def test_a_zip_that_lies_of_its_sizes_is_inflated_no_further(tmp_path: Path) -> None:
    """It says 100 bytes and holds 16 MB: they are not made."""
    path = Path(zip_with(tmp_path / "z.zip", {"a.png": bytes(1 << 24)}, zipfile.ZIP_DEFLATED))
    content = path.read_bytes().replace(struct.pack("<I", 1 << 24), struct.pack("<I", 100))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        load_images(stored(str(path), labels=False))
    path.write_bytes(content.replace(struct.pack("<I", 100), struct.pack("<I", 99)))
    packed = content.find(b"PK\1\2") + 20
    wrong = content[:packed] + struct.pack("<I", 1 << 31) + content[packed + 4 :]
    path.write_bytes(wrong)
    with pytest.raises(UserError, match=r"a\.png is damaged \(it ends beyond the file\)"):
        load_images(stored(str(path), labels=False))


def test_zips_that_are_damaged_anywhere_are_a_line(tmp_path: Path) -> None:
    """Any byte turned round: the same pictures, or one line."""
    whole = Path(as_zip(tmp_path, pictures(2))).read_bytes()
    expected = load_images(stored(str(tmp_path / "set.zip"))).batch(torch.arange(2))[0]
    rng = np.random.default_rng(0)
    refused = []
    for at in rng.choice(len(whole), 150, replace=False):
        (tmp_path / "bad.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            data = load_images(stored(str(tmp_path / "bad.zip")))
            x = data.batch(torch.arange(len(data)))[0]
            assert len(data) < 2 or torch.equal(x, expected)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert not any("\n" in line for line in refused)


@BOTH
@pytest.mark.parametrize("second", [0, 1])
@pytest.mark.parametrize("spelling", ["a.png", "./a.png", ".\\a.png"])
def test_an_image_listed_twice_is_refused(write: Write, second: int, spelling: str, tmp_path: Path) -> None:
    """With another label, and with the same."""
    files = named("a.png", "b.png") | index(["a.png", 0], ["b.png", 1], [spelling, second])
    with pytest.raises(UserError, match=r"dataset\.json lists .*a\.png twice") as caught:
        load_images(stored(write(tmp_path, files)))
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 500_000,
        b'{"labels": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"labels": [["a.png", ' + b"[" * 900 + b"]" * 900 + b"]]}",
        b'{"labels": [["a.png", 1' + b"0" * 5000 + b"]]}",
        b'{"labels": [["a.png"]]}',
        b'{"labels": [[0, 0]]}',
        b'{"labels": 3}',
        b"\xff\xfe\x00",
    ],
)
def test_an_index_that_is_none_is_a_line(write: Write, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json (is not|has)") as caught:
        load_images(stored(write(tmp_path, {"a.png": png(0), "dataset.json": content})))
    assert len(str(caught.value)) < 400


def test_an_index_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """As Windows' editors write it."""
    files = named("a.png") | {"dataset.json": b"\xef\xbb\xbf" + index(["a.png", 0])["dataset.json"]}
    assert labels_of(load_images(stored(as_folder(tmp_path, files)))) == [0]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = as_folder(tmp_path, named("b.png"))
    os.mkfifo(f"{path}/a.png")
    with pytest.raises(UserError, match=r"a\.png: cannot be read \(it is no file\)"):
        load_images(stored(path, labels=False))


def test_a_linked_folder_is_a_class_as_others_are(tmp_path: Path) -> None:
    """Sets are put together by links; a link to a folder above is passed over."""
    folder = Path(as_folder(tmp_path, named("set/dog/b.png", "set/bird/a.png", "cats/c.png"))) / "set"
    (folder / "cat").symlink_to(folder.parent / "cats")
    (folder / "cat/loop").symlink_to(folder)
    data = load_images(stored(str(folder)))
    assert data.spec.names == ("bird", "cat", "dog")
    assert labels_of(data) == [0, 1, 2]


def test_a_class_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out in silence, it would shift the numbers of the classes after it."""
    folder = Path(as_folder(tmp_path, named("bird/a.png", "dog/b.png", "emu/c.png", "lost+found/d.png")))
    scandir = os.scandir

    def closed(place: str) -> Iterator[os.DirEntry[str]]:
        if Path(place).name in ("dog", "lost+found"):  # as root would enter it whatever its mode
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scandir(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        with pytest.raises(UserError, match=r"dog: the folder cannot be entered \(Permission denied\)"):
            load_images(stored(str(folder)))
    (folder / "cat").symlink_to(tmp_path / "not-mounted/cat")
    with pytest.raises(
        UserError, match=r"cat is a link that leads nowhere \(.*not-mounted/cat\); mount what"
    ):
        load_images(stored(str(folder)))
    (folder / "cat").rename(folder / ".cat")  # as editors leave such links
    assert load_images(stored(str(folder))).spec.names == ("bird", "dog", "emu")


@BOTH
@pytest.mark.parametrize("top", ["", "pets/"])
def test_folders_of_classes_are_labels(
    write: Write, top: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the order of their names, wherever they lie, and said so; numbers by their size."""
    names = [f"{top}{name}" for name in ("dog/b.png", "cat/a.png", "cat/more/a.png", "emu/x.png")]
    with caplog.at_level("INFO"):
        data = load_images(stored(write(tmp_path, named(*names))))
    assert labels_of(data) == [0, 0, 1, 2]  # in the order of the files' names
    assert (data.spec.classes, data.spec.names) == (3, ("cat", "dog", "emu"))
    assert "by folder: 0 cat, 1 dog, 2 emu" in caplog.text
    numbers = [f"{top}{n}/a.png" for n in (0, 2, 10)]
    (tmp_path / "numbers").mkdir()
    assert sorted(labels_of(load_images(stored(write(tmp_path / "numbers", named(*numbers)))))) == [0, 1, 2]


@BOTH
@pytest.mark.parametrize(
    "names",
    [
        ("cat/a.png", "cat/b.png"),
        ("cat/a.png", "dog/b.png", "c.png"),
        ("00000/a.png", "00001/b.png"),
        ("pets/cat/a.png", "pets/dog/b.png", "pets/c.png"),
    ],
)
def test_folders_that_are_no_classes_are_refused(
    write: Write, names: tuple[str, ...], tmp_path: Path
) -> None:
    """One alone, images beside them, and the numbered parts of a large set, whose index is lost."""
    with pytest.raises(UserError, match=r"dataset\.json is missing.*a folder for each class"):
        load_images(stored(write(tmp_path, named(*names))))


@BOTH
@pytest.mark.parametrize("parts", [("train", "test"), ("Test", "Train", "val")])
def test_parts_of_a_data_set_are_no_classes(write: Write, parts: tuple[str, ...], tmp_path: Path) -> None:
    """Where they hold folders of classes, too; without labels they are one set. A class may have such a name
    beside others."""
    names = [f"{part}/{name}.png" for part in parts for name in ("cat/a", "dog/b")]
    place = write(tmp_path, named(*names))
    with pytest.raises(UserError, match=r"are parts of a data set and no classes; .*data\.labels=false"):
        load_images(stored(place))
    assert len(load_images(stored(place, labels=False))) == len(names)
    (tmp_path / "trains").mkdir()
    assert labels_of(load_images(stored(write(tmp_path / "trains", named("bus/a.png", "train/b.png"))))) == [
        0,
        1,
    ]
