"""Prompt lists in every form, and what is said of those that are none."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from carv_distill.data.prompts import read_prompts
from carv_distill.errors import UserError

PROMPTS = ["a red torus, side view", 'he said "no" # twice', "a red torus, side view", "ünï\u2028çode  蛋 🥚"]
"""In their order, one of them twice; with all that a reader of lines or of commas might stumble over."""
COLUMNS = ("text", "caption", "prompt")


def as_text(place: Path, prompts: list[str], column: str) -> Path:
    (place / "p.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return place / "p.txt"


def as_json_lines(place: Path, prompts: list[str], column: str) -> Path:
    lines = [json.dumps({"id": i, column: p}, ensure_ascii=i % 2 == 0) for i, p in enumerate(prompts)]
    (place / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return place / "p.jsonl"


def as_csv(place: Path, prompts: list[str], column: str) -> Path:
    quoted = ['"' + p.replace('"', '""') + '"' for p in prompts]
    rows = "".join(f"{i},{p}\r\n" for i, p in enumerate(quoted))
    (place / "p.csv").write_text(f"id, {column}\r\n{rows}\r\n", encoding="utf-8", newline="")
    return place / "p.csv"


def as_parquet(place: Path, prompts: list[str], column: str) -> Path:
    parquet.write_table(pyarrow.table({"id": range(len(prompts)), column: prompts}), place / "p.parquet")
    return place / "p.parquet"


def as_dataset(place: Path, prompts: list[str], column: str) -> Path:
    Dataset.from_dict({"id": list(range(len(prompts))), column: prompts}).save_to_disk(place / "p")
    return place / "p"


FORMS = [as_text, as_json_lines, as_csv, as_parquet, as_dataset]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("column", COLUMNS)
def test_order_and_repeats_are_kept(
    write: Callable[[Path, list[str], str], Path], column: str, tmp_path: Path
) -> None:
    assert read_prompts(write(tmp_path, PROMPTS, column)) == PROMPTS


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    """Blank ones are passed over, the space around a prompt too; a # is text; Windows and old Macs."""
    path = tmp_path / "p.TXT"
    for end in ("\n", "\r\n", "\r"):
        text = end.join(["\ufeff# one", "", "  \t", "  two,  three ", "four"])
        path.write_bytes(text.encode())
        assert read_prompts(path) == ["# one", "two,  three", "four"]


def test_values_of_a_table_are_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes('prompt\n" a\nb "\n007\n"#"\n'.encode("utf-8-sig"))
    assert read_prompts(path) == [" a\nb ", "007", "#"]
    large = pyarrow.table({"text": pyarrow.array(["a", "b"], pyarrow.large_string())})
    parquet.write_table(large, tmp_path / "l.parquet")
    coded = pyarrow.table({"text": pyarrow.array(["a", "b"]).dictionary_encode()})
    parquet.write_table(coded, tmp_path / "d.parquet")
    assert read_prompts(tmp_path / "l.parquet") == read_prompts(tmp_path / "d.parquet") == ["a", "b"]


def test_a_dataset_that_was_filtered_has_what_is_left(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": [*"abcdef"]}).select([5, 0, 3])
    data.save_to_disk(tmp_path / "d", num_shards=2)
    assert read_prompts(tmp_path / "d") == ["f", "a", "d"]


def parquet_of(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def invalid_text() -> bytes:
    """A column of text whose bytes are not UTF-8."""
    array = pyarrow.array([b"\xff\xfe"], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 1, array.buffers())
    return parquet_of(text=column)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "holds no prompts"),
        ("p.txt", b"\xef\xbb\xbf\n \r\n\t\n", "holds no prompts"),
        ("p.jsonl", b"\n\n", "holds no prompts"),
        ("p.csv", b"prompt\n", "holds no prompts"),
        ("p.csv", b"", "holds no prompts"),
        ("p.parquet", parquet_of(text=pyarrow.array([], pyarrow.string())), "holds no prompts"),
        ("p.txt", b"one\ncaf\xe9\n", r"p\.txt is not text in UTF-8: line 2 has the byte 0xe9; save it as"),
        ("p.txt", "a\nb".encode("utf-16"), r"not text in UTF-8: line 1 has the byte 0xff"),
        ("p.txt", "a\nb".encode("utf-16-le"), r"not text in UTF-8: line 1 has a zero byte"),
        ("p.jsonl", b'{"text": "a"}\n{"text": "\xfc"}', "not text in UTF-8: line 2 has the byte 0xfc"),
        ("p.csv", b"text\na\nb\n\xf6\n", "not text in UTF-8: line 4 has the byte 0xf6"),
        ("p.jsonl", b'{"text": "a"}\n\n{"text": ', "line 3 is not JSON"),
        ("p.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("p.jsonl", b'["a"]', "line 1 is not a JSON object"),
        ("p.jsonl", b'"a"', "line 1 is not a JSON object"),
        (
            "p.jsonl",
            b'{"text": "a"}\n{"label": 1, "url": ""}',
            "line 2 has no column .*there are: label, url",
        ),
        ("p.jsonl", b"{}", "line 1 has no column text or caption or prompt; there are: none"),
        ("p.jsonl", b'{"prompt": "a", "text": "b"}', "has the columns text and prompt; leave one"),
        ("p.jsonl", b'{"text": 7}', "line 1: text is 7; it must be text"),
        ("p.jsonl", b'{"text": ["a", "b"]}', r"line 1: text is \['a', 'b'\]; it must be text"),
        ("p.jsonl", b'{"text": null}', "line 1: text is nothing"),
        ("p.jsonl", b'{"text": " "}', "line 1: text is empty"),
        ("p.jsonl", b'{"text": "\\ud83e"}', "line 1: text has half of a surrogate pair"),
        ("p.csv", b"id,words\n1,a\n", "has no column text or caption or prompt; there are: id, words"),
        ("p.csv", b"a red torus\na blue cube\n", "there are: a red torus"),
        ("p.csv", b'"a\nb"\nc\n', "there are: a b"),
        ("p.csv", b"text\na\na red torus, side view\n", "line 3 has 2 values for 1 columns; .*double quotes"),
        ("p.csv", b"id,text\n1,a\n2\n", "line 3 has 1 values for 2"),
        ("p.csv", b'text\na\n"b\n', r"line \d is not CSV"),
        ("p.csv", b'text\n"a"b\n', "line 2 is not CSV"),
        ("p.csv", b"text\n" + b"a" * 200_000, r"line \d is not CSV \(field larger"),
        ("p.csv", b'id,text\n1,""\n', "line 2: text is empty"),
        ("p.csv", b"text,text\na,b\n", "has two columns text"),
        ("p.csv", b"text,prompt\na,b\n", "has the columns text and prompt"),
        ("p.parquet", b"PAR1 no", "is not a whole parquet file"),
        ("p.parquet", parquet_of(text=["a"])[:-9], "is not a whole parquet file"),
        ("p.parquet", parquet_of(words=["a"], n=[1]), "there are: words, n"),
        ("p.parquet", parquet_of(text=["a", None]), "row 2: text is nothing"),
        ("p.parquet", parquet_of(text=[1, 2]), "row 1: text is 1; it must be text"),
        ("p.parquet", parquet_of(text=[["a"]]), r"row 1: text is \['a'\]"),
        ("p.parquet", parquet_of(text=[b"a"]), "row 1: text is b'a'"),
        ("p.parquet", invalid_text(), "has texts that are not UTF-8"),
        ("p.json", b"[]", r"prompts are read from \.txt, \.jsonl, \.csv, \.parquet, or a folder"),
        ("p.tsv", b"text\n", r"prompts are read from \.txt"),
    ],
)
def test_files_that_are_no_lists_are_a_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_places_that_hold_no_list_are_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "nowhere.txt": "does not exist; a file of prompts is needed",
        "pipe.txt": "cannot be read",
        "folder": r"is not a folder that datasets\.save_to_disk writes \(state\.json is missing\)",
    }.items():
        with pytest.raises(UserError, match=message):
            read_prompts(tmp_path / name)


def test_datasets_that_do_not_fit_are_a_line(tmp_path: Path) -> None:
    parts = {name: Dataset.from_dict({"text": ["a"]}) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "splits")
    assert read_prompts(tmp_path / "splits" / "train") == ["a"]
    with pytest.raises(UserError, match="splits holds the splits test, train; give one of these folders"):
        read_prompts(tmp_path / "splits")
    Dataset.from_dict({"words": ["a"], "n": [1]}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match="has no column text or caption or prompt; there are: words, n"):
        read_prompts(tmp_path / "other")
    Dataset.from_dict({"text": ["a", None]}).save_to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="row 2: text is nothing"):
        read_prompts(tmp_path / "empty")
    Dataset.from_dict({"text": []}).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="none holds no rows"):
        read_prompts(tmp_path / "none")


@pytest.mark.parametrize("victim", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"junk" * 100])
def test_a_damaged_dataset_is_a_line(victim: str, content: bytes | None, tmp_path: Path) -> None:
    path = as_dataset(tmp_path, PROMPTS, "text")
    if content is None:
        (path / victim).unlink()
    else:
        (path / victim).write_bytes(content)
    with pytest.raises(UserError, match=r"p(/state\.json)? (cannot be read|is not|holds no rows)") as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("package", "write"), [("pyarrow", as_parquet), ("datasets", as_dataset)])
def test_a_package_that_is_not_here_is_named(
    package: str,
    write: Callable[[Path, list[str], str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path, PROMPTS, "text")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}.*'carv-distill\[text-to-image\]'"):
        read_prompts(path)


@pytest.mark.slow
def test_a_million_prompts_take_seconds(tmp_path: Path) -> None:
    """300,000 of them, in well under a third of half a minute."""
    path = as_json_lines(tmp_path, [f"a picture of {i} cats" for i in range(300_000)], "text")
    start = time.perf_counter()
    assert len(read_prompts(path)) == 300_000
    assert time.perf_counter() - start < 10
