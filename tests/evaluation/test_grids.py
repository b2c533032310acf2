from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from carv_distill.evaluation.grids import captions_of, save_captioned_grid, save_clip_sheet, save_grid


def test_grid_places_and_magnifies_images(tmp_path: Path) -> None:
    # six grey images of one value each, three per row, pixels drawn 2x2, a frame of one pixel (drawn as two)
    values = torch.linspace(-1, 1, 6)
    save_grid(values[:, None, None, None].expand(6, 1, 4, 4), tmp_path / "grid.png", columns=3, scale=2)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == ((2 * 5 + 1) * 2, (3 * 5 + 1) * 2, 3)
    for i, value in enumerate((values * 127.5 + 128).clamp(max=255).int().tolist()):
        top, left = 2 + 10 * (i // 3), 2 + 10 * (i % 3)
        assert (picture[top : top + 8, left : left + 8] == value).all()
    assert (picture[:2] == 64).all()
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_grid_keeps_colours_and_takes_a_short_last_row(tmp_path: Path) -> None:
    images = -torch.ones(3, 3, 2, 2)
    images[2, 1] = 1
    save_grid(images.requires_grad_(), tmp_path / "grid.png", columns=2)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (7, 7, 3)
    assert picture[4, 1].tolist() == [0, 255, 0]
    assert picture[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("columns", [3, 9])
def test_a_sheet_of_clips_has_a_row_for_each(columns: int, tmp_path: Path) -> None:
    """Two clips of five frames, each frame of one grey; captions stand on white before them."""
    levels = torch.arange(10, dtype=torch.uint8).view(2, 5) * 25
    clips = levels[:, :, None, None, None].expand(2, 5, 3, 6, 8)
    save_clip_sheet(clips, ["a red cube turns", "a 7"], tmp_path / "sheet.png", columns, side=12)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    shown = levels[:, [0, 2, 4]] if columns == 3 else levels
    height, width = 12 + 2, 16 + 2
    margin = picture.shape[1] - (shown.shape[1] * width + 2)
    assert picture.shape[0] == 2 * height + 2
    for row in range(2):
        for column, level in enumerate(shown[row].tolist()):
            top, left = 2 + row * height, margin + 2 + column * width
            assert (picture[top : top + 12, left : left + 16] == level).all()
        assert (picture[row * height + 2 : (row + 1) * height, : margin - 2] < 100).any()  # words
    assert (picture[:, margin - 3 : margin] == 255).all()


def test_a_sheet_takes_clips_of_floats(tmp_path: Path) -> None:
    clips = torch.linspace(-1, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 3, 64, 64)
    save_clip_sheet(clips, ["a long caption that is wrapped, " * 9], tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[0] == 64 + 4
    assert picture[30, -30].tolist() == [255] * 3


def test_a_grid_knows_its_captions(tmp_path: Path) -> None:
    """Whole, also those that are cut above their column; of a grid without, and of no picture, none."""
    captions = ["a red cube, " + "very " * 40 + "large", "een 7 in ’t groen\nen geel"]
    whole = [captions[0], "een 7 in ’t groen en geel"]
    save_captioned_grid(torch.zeros(4, 3, 16, 16), captions, tmp_path / "captioned.png")
    save_clip_sheet(torch.zeros(2, 3, 3, 16, 16), captions, tmp_path / "sheet.png")
    save_grid(torch.zeros(4, 3, 16, 16), tmp_path / "grid.png", columns=2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = [captions_of(tmp_path / f"{name}.png") for name in ("captioned", "sheet", "grid", "broken")]
    assert found == [whole, whole, [], []]
