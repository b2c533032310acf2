"""The labels of images in a folder or zip: by their `dataset.json`, or by the folders that they lie in."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carv_distill.errors import UserError, shown

from .storage import INDEX, Storage, path_key

log = logging.getLogger(__name__)

PARTS = {
    *("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"),
    *("unlabeled", "unlabelled", "extra"),
}
"""Folders that hold parts of a data set, in small letters, without "set", "images" or "data" behind."""
FORM = '{"labels": [["a.png", 3], …]}'
"""Of a `dataset.json`."""


@dataclass(frozen=True)
class Labels:
    """The label of each image, a number."""

    numbers: list[int]
    names: tuple[str, ...] = ()
    """Of the classes 0, 1, …, where folders give them."""


def read_labels(storage: Storage) -> Labels | None:
    """Of a training set: 0 … n−1, each of which is there; None where `dataset.json` says that there are none.

    Raises:
        UserError: there is neither a `dataset.json` nor a folder for each class, or it lacks a label.
    """
    content = storage.read_index()
    if content is None:
        if not storage.other_index and (found := class_folders(storage)):
            _refuse_parts(storage, found.names)
            log.info("labels of %s by folder: %s", storage.path, numbered(found.names))
            _warn_of_numbers(storage, found.names)
            return found
        raise UserError(
            f"{_lacks(storage)}, as {FORM}; a folder for each class does, too{_five_digits(storage)}; in a "
            "configuration data.labels=false takes the images without"
        )
    numbers = _in_index(storage, content)
    if numbers is None:
        return None
    largest = max(numbers)
    if unused := set(range(min(largest + 1, len(numbers) + 1))).difference(numbers):
        raise UserError(
            f"{_index(storage)} has labels up to {largest}, but no image with label {min(unused)}; they must "
            "be 0 … n−1"
        )
    return Labels(numbers)


def read_known_labels(storage: Storage, classes: Sequence[str]) -> list[int]:
    """Of images beside a training set: any of its labels, which are left out as one likes. Without a
    `dataset.json` an image's class is the name of the folder that it lies in, or of one above it; the whole
    set may be such a folder.

    Args:
        classes: of the training set, by their numbers.

    Raises:
        UserError: an image without a label, or one of no such class.
    """
    content = storage.read_index()
    if content is not None:
        numbers = _in_index(storage, content)
        if numbers is None:
            raise UserError(f"{_index(storage)} says that there are no labels; {FORM} is wanted")
        return numbers
    number, labels = {path_key(name): n for n, name in enumerate(classes)}, []
    place = Path(os.path.abspath(storage.path))
    own = path_key(place.name if place.is_dir() else place.stem)
    for i in range(len(storage)):
        label = _nearest([own, *posixpath.dirname(storage.key(i)).split("/")], number)
        if storage.other_index or label is None:
            known = ", ".join(classes[:5]) + (f", … {classes[-1]}" if len(classes) > 5 else "")
            raise UserError(
                f"{_lacks(storage)}, as {FORM}; folders that are called as the training set's classes do, "
                f"too, and {storage.name(i)} lies in none of them ({known})"
            )
        labels.append(label)
    return labels


def _nearest(above: Sequence[str], number: Mapping[str, int]) -> int | None:
    """The class that the nearest of these folders is called as; a class T-shirt/top is two of them."""
    for end in range(len(above), 0, -1):
        for start in range(end):
            if (name := "/".join(above[start:end])) in number:
                return number[name]
    return None


def class_folders(storage: Storage) -> Labels | None:
    """Names of the folders that images lie in, one for each class, and each image's number among them: in the
    order of the names, of numbers by their size. None where they do not lie so: an image beside the folders,
    a single folder, or parts of a large set as EDM's `dataset_tool.py` numbers them, 00000, 00001, …
    """
    of = _folders(storage)
    found = set(of)
    if "" in found or len(found) < 2 or _are_five_digits(found):
        return None
    decimal = all(name.isdecimal() for name in found)
    names = sorted(found, key=(lambda name: (int(name), name)) if decimal else None)
    number = {name: i for i, name in enumerate(names)}
    return Labels([number[name] for name in of], tuple(names))


def _folders(storage: Storage) -> list[str]:
    """Of each image the folder below the one that has them all; empty of one that lies in that itself."""
    places = [posixpath.dirname(storage.key(i)) for i in range(len(storage))]
    above = posixpath.commonpath(places) if all(places) else ""
    return [place.removeprefix(above).strip("/").split("/")[0] for place in places]


def _are_five_digits(names: set[str]) -> bool:
    return all(re.fullmatch(r"\d{5}", name) for name in names)


def _five_digits(storage: Storage) -> str:
    if not _are_five_digits(set(_folders(storage))):
        return ""
    return " (folders of five digits are parts, as EDM's dataset_tool.py numbers them, and no classes)"


def _refuse_parts(storage: Storage, names: Sequence[str]) -> None:
    """Folders of the parts of a set would be taken for its classes."""
    parts = [name for name in names if re.sub(r"[ _-]?(set|images|data)$", "", name.lower()) in PARTS]
    if len(parts) >= 2 or parts == list(names):
        raise UserError(
            f"data.path: {storage.path} holds {', '.join(parts)}, which are parts of a data set and no "
            "classes; give the folder of one of them (in a configuration data.labels=false takes all its "
            "pictures without labels)"
        )


def _warn_of_numbers(storage: Storage, names: Sequence[str]) -> None:
    """Other programs number such folders otherwise, as 1, 10, 2."""
    if all(name.isdecimal() for name in names) and [int(name) for name in names] != list(range(len(names))):
        log.warning(
            "%s: folders called by numbers are classes in the order of their size, the first of them 0; a "
            "teacher from elsewhere may have others (a %s says which)",
            storage.path,
            INDEX,
        )


def numbered(names: Sequence[str], most: int = 10) -> str:
    """Classes with their numbers, as "0 cat, 1 dog", in a line."""
    shown_names = ", ".join(f"{i} {name}" for i, name in enumerate(names[:most]))
    return shown_names + (f", … {len(names) - 1} {names[-1]}" if len(names) > most else "")


def _index(storage: Storage) -> str:
    return f"data.path: {storage.path}: {INDEX}"


def _lacks(storage: Storage) -> str:
    there = f" (there is {storage.other_index})" if storage.other_index else ""
    return f"{_index(storage)} is missing{there}, and with it the labels"


def _in_index(storage: Storage, content: bytes) -> list[int] | None:
    """A number from 0 on for each image; None where the file says that there are none."""
    where = _index(storage)
    by_name: dict[str, object] = {}
    try:
        entries = json.loads(content)["labels"]
        for name, label in [] if entries is None else entries:
            if (key := path_key(name)) in by_name:
                raise UserError(f"{where} lists {name} twice; each image has one label")
            by_name[key] = label
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} is not {FORM} or null") from error
    if entries is None:
        return None
    numbers = []
    for i in range(len(storage)):
        label = by_name.get(storage.key(i))
        if label is None:
            raise UserError(f"{where} has no label for {storage.name(i)}")
        if type(label) is not int or label < 0:
            found = shown(label)
            raise UserError(
                f"{where} has the label {found} for {storage.name(i)}; whole numbers from 0 are allowed"
            )
        numbers.append(label)
    return numbers
