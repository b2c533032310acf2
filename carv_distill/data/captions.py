"""Which caption each picture or clip of a folder, zip or shard has: from a table, or the file beside it."""

from __future__ import annotations

import posixpath

from carv_distill.errors import UserError

from .storage import FileKind, Storage, path_key
from .tables import FILE_NAME, TABLES, TEXT, checked_text, decode_text, json_object, pick, read_table

TEXTS = FileKind("text", (".txt", ".json", *TABLES))
"""The files that captions are read from."""
_METADATA_FILES = tuple(f"metadata{suffix}" for suffix in TABLES)


def read_captions(files: Storage, texts: Storage) -> list[str]:
    """The caption of each file, picture or clip, in the order of their numbers.

    Where there is a `metadata.jsonl`, `.csv` or `.parquet`, in one folder or in several, it has a row for
    every one: `file_name`, as seen from its own folder, and `text`, `caption` or `prompt`. Elsewhere
    a.png, or a.mp4, has a.txt beside it, whose whole text, less the space around it, is its caption, or
    a.json with a `text`, `caption` or `prompt`.

    Args:
        texts: the files of :data:`TEXTS` in the same place.

    Raises:
        UserError: a file without caption or with two, a row whose file is not there, or captions that
            are not UTF-8 or no text.

    Source: Hugging Face's `imagefolder`; webdataset, and the files of img2dataset.
    """
    metadata = [n for n in range(len(texts)) if posixpath.basename(texts.name(n)) in _METADATA_FILES]
    return _from_metadata(files, texts, metadata) if metadata else _from_beside(files, texts)


def _from_metadata(files: Storage, texts: Storage, metadata: list[int]) -> list[str]:
    numbers = {path_key(files.name(n)): n for n in range(len(files))}
    captions: list[str | None] = [None] * len(files)
    kind = files.kind.name
    folders: dict[str, str] = {}
    for table in metadata:
        name = path_key(texts.name(table))
        folder = posixpath.dirname(name)
        if (other := folders.setdefault(folder, name)) != name:
            raise UserError(f"{texts.path} holds {other} and {name}; leave one of them")
        for place, (file, text) in read_table(texts.read(table), f"{texts.path}: {name}", FILE_NAME, TEXT):
            number = numbers.get(path_key(posixpath.join(folder, file.replace("\\", "/"))))
            if number is None:
                raise UserError(f"{place} names {file}, but no {kind} of this name is there")
            if captions[number] is not None:
                raise UserError(f"{place} names {file}, which has a row already; each {kind} has one caption")
            captions[number] = text
    for number, caption in enumerate(captions):
        if caption is None:
            where = ", ".join(sorted(folders.values())[:3])
            raise UserError(
                f"{files.path}: {files.name(number)} has no row in {where}; add one, or take it out"
            )
    return [caption for caption in captions if caption is not None]


def _from_beside(files: Storage, texts: Storage) -> list[str]:
    kind = files.kind.name
    plain, objects = _by_stem(texts, kind, (".txt",)), _by_stem(texts, kind, (".json",))
    captions = []
    for stem, number in _by_stem(files, kind, ("",)).items():
        if (n := plain.get(stem)) is not None:
            where = f"{texts.path}: {texts.name(n)}"
            captions.append(checked_text(decode_text(texts.read(n), where).strip(), where, "the caption"))
        elif (n := objects.get(stem)) is not None:
            where = f"{texts.path}: {texts.name(n)}"
            row = json_object(texts.read(n), where)
            name = pick(row, TEXT, where)
            captions.append(checked_text(row[name], where, name))
        else:
            base = posixpath.basename(stem)
            raise UserError(
                f"{files.path}: {files.name(number)} has no caption: no {base}.txt or {base}.json "
                f"beside it, and no {' or '.join(_METADATA_FILES)}"
            )
    return captions


def _by_stem(files: Storage, kind: str, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Number by path without suffix, in the order of the numbers."""
    numbers: dict[str, int] = {}
    for number in range(len(files)):
        name = path_key(files.name(number))
        if name.lower().endswith(suffixes):
            stem = posixpath.splitext(name)[0]
            if (other := numbers.setdefault(stem, number)) != number:
                raise UserError(
                    f"{files.path} holds {files.name(other)} and {files.name(number)}; a {kind} and its "
                    "caption have one name, less the suffix, and no other has it"
                )
    return numbers
