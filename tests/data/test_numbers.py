from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.data.images import load_images
from carv_distill.data.numbers import read_numbers
from carv_distill.data.options import DataOptions
from carv_distill.errors import UserError


def test_numbers_are_sorted_and_distinct(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("5 3\n3\n0\n")
    assert read_numbers(file, 6, "key").tolist() == [0, 3, 5]
    some, whole = load_images(DataOptions("digits", only=str(file))), load_images("digits")
    assert len(some) == 3
    images, labels = some.batch(torch.tensor([2, 0]))
    assert torch.equal(images, whole.images[[5, 0]])
    assert torch.equal(labels, whole.labels[[5, 0]])


@pytest.mark.parametrize(
    ("text", "said"), [("", "has no numbers"), ("1 6", "0 to 5"), ("-1", "0 to 5"), ("x", "something else")]
)
def test_what_is_no_number_of_a_sample_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "some.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"^data.only: .*some.txt .*{said}"):
        read_numbers(file, 6, "data.only")
    with pytest.raises(UserError, match=r"^data.only: .*none.txt cannot be read"):
        read_numbers(tmp_path / "none.txt", 6, "data.only")


def test_captioned_images_have_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.only: .* but data.name: shapes has none"):
        DataOptions("shapes", only="x.txt").require_captioned()
