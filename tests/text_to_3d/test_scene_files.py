"""A scene in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from carv_distill.errors import UserError
from carv_distill.text_to_3d.object.ply import read_ply
from carv_distill.text_to_3d.object.turntable import pictures, turntable
from carv_distill.text_to_3d.options import SCENES, DensifyOptions, GaussianOptions, HashOptions, SceneOptions
from carv_distill.text_to_3d.scene_files import load_scene, save_scene
from carv_distill.text_to_3d.scenes import GaussianScene, build_scene

VIEW = SceneOptions(resolution=24, size=16, samples=24)


def test_a_field_comes_back_as_it_was(tmp_path: Path) -> None:
    for kind in SCENES:
        view = SceneOptions(kind=kind, resolution=16, gaussians=GaussianOptions(30))
        scene = build_scene(view)
        for p in scene.parameters():
            torch.nn.init.normal_(p)
        save_scene(tmp_path / kind, scene, view, "a red torus", 7)
        again, its_view, prompt = load_scene(tmp_path / kind)
        assert (its_view, prompt) == (view, "a red torus")
        points = torch.rand(100, 3) - 0.5
        for a, b in zip(scene(points), again(points), strict=True):
            assert torch.equal(a, b)


def test_a_field_saved_before_its_sizes_were_options_is_read(tmp_path: Path) -> None:
    view = SceneOptions(kind="hash", resolution=64)
    scene = build_scene(view)
    save_scene(tmp_path, scene, view, "a red torus", 7)
    about = json.loads((tmp_path / "scene.json").read_text())
    del about["view"]["hash"]
    (tmp_path / "scene.json").write_text(json.dumps(about))
    again, its_view, _ = load_scene(tmp_path)
    assert its_view == view
    assert tuple(again.tables.shape) == (8, 2**15, 2)
    assert torch.equal(again.tables, scene.tables)


def test_sizes_come_back_with_the_field(tmp_path: Path) -> None:
    view = SceneOptions(kind="hash", resolution=32, hash=HashOptions(3, 8, 4, 4, 5))
    save_scene(tmp_path, build_scene(view), view, "a red torus", 7)
    again, its_view, _ = load_scene(tmp_path)
    assert its_view == view
    assert again.sides == [4, 11, 32]
    assert tuple(again.tables.shape) == (3, 2**8, 4)


def test_gaussians_are_shown_by_whatever_is_there(tmp_path: Path) -> None:
    """A scene trained with gsplat is loaded on a machine without it."""
    view = SceneOptions(kind="gaussians", gaussians=GaussianOptions(10, "gsplat"))
    save_scene(tmp_path, build_scene(view), view, "a red torus", 7)
    again, its_view, _ = load_scene(tmp_path)
    assert its_view.gaussians == GaussianOptions(10, "auto")
    assert pictures(again, turntable(2), 8, 1).shape == (2, 3, 8, 8)


def test_gaussians_come_back_as_many_as_there_are(tmp_path: Path) -> None:
    """Whatever the configuration began with; where they began is not looked for again."""
    densify = DensifyOptions(every=50, most=99)
    began = GaussianOptions(10, "auto", "gone.ply", densify)
    view = SceneOptions(kind="gaussians", gaussians=began)
    scene = build_scene(view)
    assert isinstance(scene, GaussianScene)
    scene.replace({name: value.repeat(3, *[1] * (value.ndim - 1)) for name, value in scene.values.items()})
    save_scene(tmp_path, scene, view, "a red torus", 7)
    again, its_view, _ = load_scene(tmp_path)
    assert its_view.gaussians == GaussianOptions(30, "auto", None, densify)
    assert isinstance(again, GaussianScene)
    assert all(torch.equal(again.values[name], value) for name, value in scene.values.items())
    assert len(read_ply(tmp_path / "scene.ply")) == 30


def test_fields_have_no_ply(tmp_path: Path) -> None:
    save_scene(tmp_path, build_scene(VIEW), VIEW, "a red torus", 7)
    assert not (tmp_path / "scene.ply").exists()


def test_a_scene_of_different_lengths_is_no_scene(tmp_path: Path) -> None:
    view = SceneOptions(kind="gaussians", gaussians=GaussianOptions(10))
    save_scene(tmp_path, build_scene(view), view, "x", 7)
    state = load_file(tmp_path / "scene.safetensors")
    save_file({**state, "means": torch.zeros(11, 3)}, tmp_path / "scene.safetensors")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"holds no readable scene: .* size mismatch"):
        load_scene(tmp_path)


def test_one_flipped_bit_of_a_field_is_found(tmp_path: Path) -> None:
    save_scene(tmp_path, build_scene(VIEW), VIEW, "x", 0)
    content = bytearray((tmp_path / "scene.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "scene.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"scene\.safetensors is damaged: its SHA-256"):
        load_scene(tmp_path)


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    save_scene(tmp_path, build_scene(VIEW), VIEW, "x", 0)
    (tmp_path / "scene.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"scene\.safetensors is damaged"):
        load_scene(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # as it was before there were digests
    with pytest.raises(UserError, match="holds no readable scene"):
        load_scene(tmp_path)
    with pytest.raises(UserError, match="holds no readable scene"):
        load_scene(tmp_path / "none")
