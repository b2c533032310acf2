"""Columns of text in tables: JSON lines, CSV, parquet, and the folders of Hugging Face's `datasets`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from carv_distill.errors import UserError, one_line, shown
from carv_distill.files import read_json

TABLES = (".jsonl", ".csv", ".parquet")
TEXT = ("text", "caption", "prompt")
"""What the column of texts may be called: one of these is there."""
FILE_NAME = ("file_name",)

Rows = Iterator[tuple[str, tuple[str, ...]]]
"""For each row, where it stands, to begin a message with, and its text in each column that is asked for."""
_EXTRA = "pip install 'carv-distill[text-to-image]'"


def read_table(content: bytes, where: str, *columns: tuple[str, ...]) -> Rows:
    """The rows of a table, read one after the other.

    Args:
        content: of a `.jsonl` (an object a line), a `.csv` (its first line names the columns) or a
            `.parquet`.
        where: the file's name, with its suffix; begins the message.
        columns: what each column may be called.

    Raises:
        UserError: it is no such table, a column is missing or there under two names, or a value is no text.
    """
    suffix = Path(where).suffix.lower()
    if suffix == ".jsonl":
        return _json_lines(content, where, columns)
    return _csv(content, where, columns) if suffix == ".csv" else _parquet(content, where, columns)


def read_dataset(folder: Path, *columns: tuple[str, ...]) -> Rows:
    """The rows of a folder that `datasets.Dataset.save_to_disk` wrote, by memory map; otherwise as
    :func:`read_table`.

    Raises:
        UserError: it holds several splits, or something else.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise UserError(f"{folder} holds the splits {', '.join(splits)}; give one of these folders")
    if not (folder / "state.json").is_file():
        raise UserError(
            f"{folder} is not a folder that datasets.save_to_disk writes (state.json is missing); give one, "
            f"or a file: .txt, {', '.join(TABLES)}"
        )
    if not read_json(folder / "state.json").get("_data_files"):
        raise UserError(f"{folder} holds no rows: its state.json names no files")
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError as error:
        raise UserError(f"{folder} needs the package datasets, which is not here ({_EXTRA})") from error
    try:
        table = load_from_disk(str(folder), keep_in_memory=False).with_format("arrow")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)})") from error
    names = [pick(table.column_names, choices, str(folder)) for choices in columns]
    batches = (batch for batch in table.select_columns(names).iter(batch_size=1 << 14))
    return _arrow_rows(batches, names, str(folder))


def decode_text(content: bytes, where: str) -> str:
    """UTF-8, with a byte order mark or without, as text.

    Raises:
        UserError: it is not; the message says in which line.
    """
    try:
        text = content.decode("utf-8-sig")
        at = text.find("\0")
        why, line = "a zero byte", text.count("\n", 0, max(at, 0)) + 1
    except UnicodeDecodeError as error:
        at = error.start
        why, line = f"the byte 0x{content[at]:02x}", content.count(b"\n", 0, at) + 1
    if at >= 0:
        raise UserError(f"{where} is not text in UTF-8: line {line} has {why}; save it as UTF-8")
    return text


def pick(names: Collection[str], choices: tuple[str, ...], where: str) -> str:
    """The one of the choices that is among the names of columns.

    Raises:
        UserError: none is, or more than one.
    """
    there = [choice for choice in choices if choice in names]
    wanted = " or ".join(choices)
    if not there:
        listed = ", ".join(one_line(ValueError(name), 40) for name in list(names)[:12]) or "none"
        raise UserError(f"{where} has no column {wanted}; there are: {listed}")
    if len(there) > 1:
        raise UserError(f"{where} has the columns {' and '.join(there)}; leave one of them")
    return there[0]


def checked_text(value: object, where: str, name: str) -> str:
    """A value of a column, as it is.

    Raises:
        UserError: no text, an empty one, or one that no tokenizer takes.
    """
    if not isinstance(value, str):
        found = "nothing" if value is None else shown(value)
        raise UserError(f"{where}: {name} is {found}; it must be text")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty; give it words, or leave it out with its row")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell it
        raise UserError(f"{where}: {name} has half of a surrogate pair, which is no character") from error
    return value


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f'{where} is not a JSON object, as {{"text": …}}')
    return content


def _json_lines(content: bytes, where: str, columns: tuple[tuple[str, ...], ...]) -> Rows:
    # not splitlines(): it cuts at characters that may stand within a text
    for number, line in enumerate(io.StringIO(decode_text(content, where), newline="\n"), 1):
        if line.strip():
            place = f"{where}: line {number}"
            row = json_object(line, place)
            names = [pick(row, choices, place) for choices in columns]
            yield place, tuple(checked_text(row[name], place, name) for name in names)


def _csv(content: bytes, where: str, columns: tuple[tuple[str, ...], ...]) -> Rows:
    rows = csv.reader(io.StringIO(decode_text(content, where), newline=""), strict=True)
    head: list[str] | None = None
    try:
        for row in rows:
            place = f"{where}: line {rows.line_num}"
            if head is None and row:
                head = [name.strip() for name in row]
                names = [pick(head, choices, where) for choices in columns]
                if twice := [name for name in names if head.count(name) > 1]:
                    raise UserError(f"{where} has two columns {twice[0]}")
                numbers = [head.index(name) for name in names]
            elif row and len(row) != len(head or ()):
                raise UserError(
                    f"{place} has {len(row)} values for {len(head or ())} columns; a text with commas stands "
                    "in double quotes"
                )
            elif row:
                found = zip(numbers, names, strict=True)
                yield place, tuple(checked_text(row[n], place, name) for n, name in found)
    except csv.Error as error:
        raise UserError(f"{where}: line {rows.line_num} is not CSV ({one_line(error)})") from error


def _parquet(content: bytes, where: str, columns: tuple[tuple[str, ...], ...]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{where} needs the package pyarrow, which is not here ({_EXTRA})") from error
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        names = [pick(file.schema_arrow.names, choices, where) for choices in columns]
        yield from _arrow_rows(file.iter_batches(1 << 14, columns=names), names, where)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{where} is not a whole parquet file ({one_line(error)})") from error


def _arrow_rows(batches: Iterator[Any], names: list[str], where: str) -> Rows:
    """Rows of Arrow's tables or record batches."""
    number = 0
    for batch in batches:
        try:
            values = [batch.column(name).to_pylist() for name in names]
        except UnicodeDecodeError as error:  # Arrow looks at no bytes when it reads
            raise UserError(f"{where} has texts that are not UTF-8, after row {number}") from error
        for row in zip(*values, strict=True):
            number += 1
            place = f"{where}: row {number}"
            yield place, tuple(checked_text(v, place, n) for v, n in zip(row, names, strict=True))
