"""Labels of pictures beside a training set: some of its classes, by name or number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from carv_distill.data.stored import load_stored_images
from carv_distill.errors import UserError

CLASSES = ("cat", "dog", "emu")


def folder(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 200).save(place / name)
    return place


def labels(place: Path, classes: tuple[str, ...] = CLASSES) -> list[int]:
    return load_stored_images(str(place), classes=classes).labels.tolist()


def test_folders_have_the_numbers_that_the_training_set_gives_them(tmp_path: Path) -> None:
    """Though a set of their own would number them 0 and 1; one class alone may be asked about, by a folder in
    the set or by the set itself, and a folder inside a class is of that class."""
    assert labels(folder(tmp_path / "a", "dog/x.png", "emu/y.png", "emu/more/z.png")) == [1, 2, 2]
    assert labels(folder(tmp_path / "b", "emu/x.png")) == [2]
    assert labels(folder(tmp_path / "dog", "x.png", "y.png")) == [1, 1]
    assert labels(folder(tmp_path / "c", "2/x.png", "0/y.png"), ("0", "1", "2")) == [0, 2]
    assert load_stored_images(str(tmp_path / "b"), classes=CLASSES).spec.names == CLASSES


def test_an_index_comes_first(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", "dog/x.png", "emu/y.png")
    entries = {"labels": [["dog/x.png", 2], ["emu/y.png", 2]]}
    (place / "dataset.json").write_text(json.dumps(entries))
    assert labels(place) == [2, 2]


@pytest.mark.parametrize(
    ("names", "lost"), [(["x.png"], 0), (["cow/y.png", "dog/x.png"], 0), (["dog/x.png", "y.png"], 1)]
)
def test_what_lies_in_no_class_is_named_with_the_classes(names: list[str], lost: int, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        labels(folder(tmp_path / "a", *names))
    said = str(caught.value)
    assert said.startswith(f"data.path: {tmp_path / 'a'}: dataset.json is missing, and with it the labels")
    assert said.endswith(f"and {names[lost]} lies in none of them (cat, dog, emu)")
    with pytest.raises(UserError, match=r"lies in none of them \(0, 1, 2, 3, 4, … 9\)"):
        labels(tmp_path / "a", tuple("0123456789"))


def test_a_folder_is_a_class_by_its_whole_name(tmp_path: Path) -> None:
    """Dots, accents as macOS writes them, a link to it, and a name that is two folders."""
    assert labels(folder(tmp_path / "1.5", "x.png"), ("1", "1.5")) == [1]
    with pytest.raises(UserError, match="lies in none"):
        labels(folder(tmp_path / "cat.new", "x.png"))
    assert labels(folder(tmp_path / "cafe\u0301", "x.png"), ("tea", "caf\u00e9")) == [1]
    (tmp_path / "emu").symlink_to(folder(tmp_path / "elsewhere", "x.png"), target_is_directory=True)
    assert labels(tmp_path / "emu") == [2]
    assert labels(folder(tmp_path / "a", "T-shirt/top/x.png"), ("Shirt", "T-shirt/top")) == [1]


def test_an_index_that_says_there_are_none_is_no_label_0(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", "x.png")
    (place / "dataset.json").write_text('{"labels": null}')
    with pytest.raises(UserError, match="says that there are no labels"):
        labels(place)
    assert load_stored_images(str(place)).spec.classes == 0


@pytest.mark.parametrize(
    "parts", [("training_set", "test_set"), ("train", "test", "unlabeled"), ("Train Images", "bus", "val")]
)
def test_parts_of_a_set_by_longer_names(parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are parts of a data set and no classes"):
        load_stored_images(str(folder(tmp_path / "a", *(f"{part}/x.png" for part in parts))))


def test_folders_of_numbers_with_gaps_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A teacher from elsewhere may take 10 for class 1, as it comes before 2 in the alphabet, or for 10."""
    load_stored_images(str(folder(tmp_path / "a", "0/x.png", "1/x.png")))
    assert "in the order of their size" not in caplog.text
    load_stored_images(str(folder(tmp_path / "b", "1/x.png", "2/x.png", "10/x.png")))
    assert "in the order of their size, the first of them 0" in caplog.text


def test_an_index_elsewhere_is_not_passed_over(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", "dog/x.png", "emu/y.png")
    (place / "dog/dataset.json").write_text('{"labels": [["x.png", 0]]}')
    with pytest.raises(UserError, match=r"is missing \(there is dog/dataset\.json\)"):
        labels(place)


def test_folders_of_five_digits_are_said_to_be_parts(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a folder for each class does, too \(folders of five digits are parts"
    ):
        load_stored_images(str(folder(tmp_path / "a", "00000/x.png", "00001/y.png")))
