"""Which caption a picture has, and what is said where it has none, or two."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from carv_distill.data.captioned import load_captioned_images
from carv_distill.errors import UserError
from tests.helpers.captioned_files import TEXTS, WRITERS, beside, photos, rows
from tests.helpers.image_files import Files, as_folder, as_zip, png

Write = Callable[[Path, Files], str]
BOTH = pytest.mark.parametrize("write", [as_folder, as_zip])


def captions(path: str) -> dict[str, str]:
    """By the picture's path in its set or shard."""
    data = load_captioned_images(path, 8)
    storage = data.storage
    return {storage.name(n): data.captions[int(data.labels[n])] for n in range(len(data))}


EXPECTED = {f"{stem}.png": text for stem, text in TEXTS.items()}


def as_csv(column: str) -> bytes:
    lines = "".join(f'{stem}.png,"{text}"\r\n' for stem, text in TEXTS.items())
    return f"file_name,{column}\r\n{lines}".encode()


def as_parquet(column: str) -> bytes:
    file = io.BytesIO()
    columns = {"n": [0] * 4, column: list(TEXTS.values()), "file_name": [f"{s}.png" for s in TEXTS]}
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


@BOTH
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
@pytest.mark.parametrize("form", [".jsonl", ".csv", ".parquet"])
def test_metadata_names_them(write: Write, column: str, form: str, tmp_path: Path) -> None:
    table = {".jsonl": rows, ".csv": as_csv, ".parquet": as_parquet}[form](column)
    assert captions(write(tmp_path, photos() | {f"metadata{form}": table, "README.txt": b"x"})) == EXPECTED


@BOTH
@pytest.mark.parametrize("top", ["", "data/", "data/train/"])
def test_metadata_is_as_seen_from_its_folder(write: Write, top: str, tmp_path: Path) -> None:
    """One for all, or one in each folder; a zip of a folder."""
    files = {top + name: content for name, content in photos().items()}
    whole = files | {f"{top}metadata.jsonl": rows()}
    expected = {top + name: text for name, text in EXPECTED.items()}
    assert captions(write(tmp_path / "one", whole) if write is as_folder else zipped(tmp_path, whole)) == (
        expected
    )
    for folder in "ab":
        lines = [
            json.dumps({"file_name": f"./{Path(stem).name}.png", "text": text})
            for stem, text in TEXTS.items()
            if stem.startswith(folder)
        ]
        files[f"{top}{folder}/metadata.jsonl"] = "\n".join(lines).encode()
    assert captions(write(tmp_path, files)) == expected


def zipped(place: Path, files: Files) -> str:
    (place / "zip").mkdir()
    return as_zip(place / "zip", files)


@pytest.mark.parametrize("write", WRITERS)
def test_text_beside_each_is_its_caption(write: Write, tmp_path: Path) -> None:
    """A .txt, or a .json; of both the .txt, as img2dataset writes both."""
    texts = list(captions(write(tmp_path / "t", made(tmp_path / "t") | photos() | beside())).values())
    assert texts == list(TEXTS.values())
    objects = {f"{s}.json": json.dumps({"caption": t, "url": ""}).encode() for s, t in TEXTS.items()}
    other = write(tmp_path / "j", made(tmp_path / "j") | photos() | objects)
    assert list(captions(other).values()) == texts
    wrong = dict.fromkeys(objects, b'{"caption": "other"}')
    both = write(tmp_path / "b", made(tmp_path / "b") | photos() | wrong | beside())
    assert list(captions(both).values()) == texts


def made(place: Path) -> Files:
    """Nothing, once the folder is there."""
    place.mkdir()
    return {}


@BOTH
@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("word", ["Zoë", "가나"])
def test_names_may_be_composed_or_not(
    write: Write, on_disk: str, listed: str, word: str, tmp_path: Path
) -> None:
    name, other = (unicodedata.normalize(form, f"{word}/x") for form in (on_disk, listed))
    row = json.dumps({"file_name": f"{other}.png", "text": "a"}, ensure_ascii=False).encode()
    assert captions(write(tmp_path, {f"{name}.png": png(0), "metadata.jsonl": row})) == {f"{name}.png": "a"}
    (tmp_path / "beside").mkdir()
    found = captions(write(tmp_path / "beside", {f"{name}.JPG": png(0), f"{other}.TXT": b"b"}))
    assert list(found.values()) == ["b"]


@pytest.mark.parametrize("spelling", ["a/x.png", "./a/x.png", "a\\x.png", "a//x.png", "b/../a/x.png"])
def test_file_names_are_compared_as_paths(spelling: str, tmp_path: Path) -> None:
    row = json.dumps({"file_name": spelling, "text": "a"}).encode()
    assert captions(as_folder(tmp_path, {"a/x.png": png(0), "metadata.jsonl": row})) == {"a/x.png": "a"}


def row(file: object = "x.png", **columns: object) -> bytes:
    return json.dumps({"file_name": file} | (columns or {"text": "a"})).encode()


@BOTH
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"x\.png has no caption: no x\.txt or x\.json beside it, and no metadata\.jsonl or "),
        ({"y.txt": b"a"}, r"x\.png has no caption"),
        ({"x.txt": b" \n"}, r"x\.txt: the caption is empty"),
        ({"x.txt": b"caf\xe9"}, r"x\.txt is not text in UTF-8: line 1 has the byte 0xe9"),
        ({"x.txt": "a".encode("utf-16")}, r"x\.txt is not text in UTF-8"),
        ({"x.json": b"{"}, r"x\.json is not JSON"),
        ({"x.json": b"\xff\xff"}, r"x\.json is not JSON"),
        ({"x.json": b"[1]"}, r"x\.json is not a JSON object"),
        ({"x.json": b'{"label": 3}'}, r"x\.json has no column text or caption or prompt; there are: label"),
        ({"x.json": b'{"text": "a", "caption": "b"}'}, "has the columns text and caption"),
        ({"x.json": b'{"text": null}'}, r"x\.json: text is nothing"),
        ({"x.jpg": png(1, form="JPEG"), "x.txt": b"a"}, r"holds x\.jpg and x\.png; a picture and its"),
        ({"x.TXT": b"b", "x.txt": b"a"}, r"holds x\.TXT and x\.txt; a picture and its"),
        ({"metadata.jsonl": row("y.png")}, r"line 1 names y\.png, but no picture of this name"),
        ({"metadata.jsonl": row("../x.png")}, r"names \.\./x\.png, but no"),
        ({"metadata.jsonl": row("/x.png")}, r"names /x\.png, but no"),
        ({"metadata.jsonl": row("x.gif")}, r"names x\.gif, but no picture"),
        ({"metadata.jsonl": row() + b"\n" + row()}, r"line 2 names x\.png, which has a row already"),
        ({"metadata.jsonl": row() + b"\n" + row("./x.png", text="b")}, "line 2 names .*has a row already"),
        ({"metadata.jsonl": row(), "z.png": png(2)}, r"z\.png has no row in metadata\.jsonl; add one"),
        ({"metadata.jsonl": b""}, r"x\.png has no row in metadata\.jsonl"),
        ({"metadata.jsonl": row(), "metadata.csv": b"file_name,text\nx.png,a\n"}, "leave one of them"),
        ({"metadata.jsonl": b'{"text": "a"}'}, r"metadata\.jsonl: line 1 has no column file_name"),
        ({"metadata.jsonl": row(label=1)}, "line 1 has no column text or caption or prompt; there are: file"),
        ({"metadata.jsonl": row(5)}, "line 1: file_name is 5; it must be text"),
        ({"metadata.jsonl": row(text=["a", "b"])}, r"line 1: text is \['a', 'b'\]"),
        ({"metadata.jsonl": row(text="")}, "line 1: text is empty"),
        ({"metadata.jsonl": row() + b"\n{"}, r"metadata\.jsonl: line 2 is not JSON"),
        ({"metadata.csv": b"file_name,text\nx.png,a red torus, side view\n"}, "line 2 has 3 values for 2"),
        (
            {"metadata.csv": b"file_name;text\nx.png;a\n"},
            "has no column file_name; there are: file_name;text",
        ),
        ({"metadata.csv": b"file_name,text\nx.png,\xe9\n"}, r"metadata\.csv is not text in UTF-8: line 2"),
        ({"metadata.parquet": b"PAR1"}, r"metadata\.parquet is not a whole parquet file"),
    ],
)
def test_captions_that_do_not_fit_are_a_line(
    write: Write, files: Files, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_captioned_images(write(tmp_path, {"x.png": png(0)} | files), 8)
    assert "\n" not in str(caught.value)
    assert "set" in str(caught.value)  # where it lies


def test_a_member_without_caption_is_named_with_its_shard(tmp_path: Path) -> None:
    files = photos() | beside()
    del files["b/3.txt"]
    for write, name in zip(WRITERS[2:], (r"b\.tar/3\.png", r"set\.tar/b/3\.png"), strict=True):
        with pytest.raises(UserError, match=rf"{name} has no caption: no 3\.txt or 3\.json beside it"):
            load_captioned_images(write(tmp_path, files), 8)
