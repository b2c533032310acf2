from pathlib import Path

import numpy as np
import torch
from PIL import Image

from carv_distill.evaluation.grids import save_grid


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
