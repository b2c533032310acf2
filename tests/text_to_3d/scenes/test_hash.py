"""What a hash grid says at known points, and how large it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.text_to_3d.options import HashOptions, SceneOptions
from carv_distill.text_to_3d.scene_files import load_scene, save_scene
from carv_distill.text_to_3d.scenes import HashScene, build_scene


@pytest.mark.parametrize("log_size", [14, 8])
def test_hash_entries_interpolate_between_corners(log_size: int) -> None:
    """With the network replaced by a sum, a field linear in its tables is continuous across a cell's face."""
    scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size))
    torch.nn.init.normal_(scene.tables)
    side = scene.sides[0]
    face = 2 * 5 / side - 1  # x at the boundary of two cells
    points = torch.tensor([[face - 1e-5, 0.1, 0.2], [face + 1e-5, 0.1, 0.2]], dtype=torch.float32)
    found = scene._look_up(scene.tables[0], (points + 1) / 2 * side, side)
    assert torch.allclose(found[0], found[1], atol=1e-2)


def test_a_level_that_fits_has_an_entry_for_each_corner() -> None:
    """(16 + 1)³ corners of a grid of side 16 read 4,913 different entries of 2^14; of 2^12 some share."""
    corners = torch.cartesian_prod(*[torch.arange(17.0)] * 3)
    for log_size, entries in ((14, 17**3), (12, None)):
        scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size, features=1))
        with torch.no_grad():
            scene.tables.copy_(torch.arange(2.0**log_size).view(1, -1, 1))
        found = scene._look_up(scene.tables[0], corners, 16).unique()
        assert len(found) == entries if entries else len(found) < 17**3


def test_the_sizes_of_a_hash_grid_are_those_asked_for() -> None:
    """Instant-NGP's: 16 resolutions from 16 to 2048 that grow by (2048/16)^(1/15), and a network of 64."""
    scene = HashScene(2048, 1.0, HashOptions(levels=16, log_size=10, base_resolution=16, width=64))
    assert (scene.sides[0], scene.sides[1], scene.sides[-1], len(scene.sides)) == (16, 22, 2048, 16)
    assert scene.tables.shape == (16, 2**10, 2)
    assert scene.network[0].weight.shape == (64, 32)


def test_levels_that_are_not_there_are_zeros_and_do_not_learn() -> None:
    """As if their entries were 0; the state says how many there are, and another scene takes it."""
    sizes = HashOptions(levels=4, log_size=6, active_levels=[0, 1, 5, 3, 8, 4])
    scene = HashScene(16, 0.8, sizes).double()
    whole = HashScene(16, 0.8, HashOptions(levels=4, log_size=6)).double()
    points = torch.rand(40, 3, dtype=torch.float64) - 0.5
    for step, active in ((0, 1), (4, 1), (5, 3), (8, 4), (5, 3)):
        scene.at_step(step)
        with torch.no_grad():
            for name, p in whole.named_parameters():
                p.copy_(dict(scene.named_parameters())[name])
            whole.tables[active:] = 0
        for found, wanted in zip(scene(points), whole(points), strict=True):
            assert torch.equal(found, wanted)
    scene.zero_grad()
    scene(points)[0].sum().backward()
    assert scene.tables.grad is not None
    assert [bool(g.any()) for g in scene.tables.grad] == [True, True, True, False]
    again = HashScene(16, 0.8, sizes).double()
    again.load_state_dict(scene.state_dict())
    assert again.active == 3
    assert torch.equal(again(points)[0], scene(points)[0])


@pytest.mark.parametrize("active", [2, [0, 2]])
def test_a_scene_on_disk_has_the_levels_that_it_had(tmp_path: Path, active: object) -> None:
    view = SceneOptions(kind="hash", size=[0, 4, 3, 8], hash=HashOptions(levels=3, active_levels=active))
    if isinstance(active, list):
        active += [4, 3]
    scene = build_scene(view)
    scene.at_step(4)
    save_scene(tmp_path / "s", scene, view, "a cube", 4)
    found, seen, _ = load_scene(tmp_path / "s")
    assert isinstance(found, HashScene)
    assert found.active == (3 if isinstance(active, list) else 2)
    assert seen == view
