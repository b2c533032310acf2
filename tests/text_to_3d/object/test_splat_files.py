"""Gaussians in the 3DGS layout: out, in again, and foreign ones."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.text_to_3d.object.ply import read_ply, write_ply
from carv_distill.text_to_3d.object.splat_files import LAYOUT, read_gaussians, write_gaussians
from carv_distill.text_to_3d.object.turntable import pictures, turntable
from carv_distill.text_to_3d.options import GaussianOptions
from carv_distill.text_to_3d.scenes import GaussianScene


def scene_of(count: int = 20) -> GaussianScene:
    scene = GaussianScene(0.8, GaussianOptions(count))
    g = stream("splat files")
    scene.replace({n: v + 0.3 * torch.randn(v.shape, generator=g) for n, v in scene.values.items()})
    return scene


def foreign(count: int = 2, degree: int = 3, **changes: float) -> NDArray[Any]:
    """As the authors' code writes them, with 45 further harmonics."""
    rest = [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    names = [*LAYOUT[:9], *rest, *LAYOUT[9:]]
    rows = np.zeros(count, [(name, "f4") for name in names])
    rows["rot_0"] = 1
    for name, value in changes.items():
        rows[name][-1] = value
    return rows


def test_they_come_back_to_the_bit(tmp_path: Path) -> None:
    """Colours, which the file has as they are and a scene as logits, to the rounding of float32."""
    scene = scene_of()
    write_gaussians(tmp_path / "a.ply", scene)
    found = read_gaussians(tmp_path / "a.ply")
    for name, value in scene.values.items():
        if name != "colour_logits":
            assert torch.equal(found[name], value), name
    torch.testing.assert_close(found["colour_logits"], scene.values["colour_logits"], rtol=0, atol=2e-6)
    again = GaussianScene(0.8, GaussianOptions(1))
    again.replace(found)
    shown = [pictures(s, turntable(2), 16, 1) for s in (scene, again)]
    torch.testing.assert_close(*shown, rtol=0, atol=1e-6)
    # what was read is written as it was but for the rounding of colours
    write_gaussians(tmp_path / "b.ply", again)
    a, b = (read_ply(tmp_path / name) for name in ("a.ply", "b.ply"))
    for name in LAYOUT:
        assert np.array_equal(a[name], b[name]) or np.abs(a[name] - b[name]).max() < 1e-6, name


def test_the_layout_is_that_of_3d_gaussian_splatting(tmp_path: Path) -> None:
    """One Gaussian by hand: red 0.9 is f_dc_0 = 0.4/C0 with C0 = 0.28209479."""
    scene = GaussianScene(0.8, GaussianOptions(1))
    scene.replace(
        {
            "means": torch.tensor([[0.1, 0.2, 0.3]]),
            "log_scales": torch.tensor([[-1.0, -2.0, -3.0]]),
            "quaternions": torch.tensor([[2.0, 0.5, -0.5, 0.25]]),
            "opacity_logits": torch.tensor([1.5]),
            "colour_logits": torch.tensor([[math.log(9), 0.0, -math.log(9)]]),
        }
    )
    write_gaussians(tmp_path / "a.ply", scene)
    head, _, numbers = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    names = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    expected_lines = ["element vertex 1", *(f"property float {name}" for name in names.split())]
    assert head.decode().split("\n")[3:-1] == expected_lines
    dc = 0.4 / 0.28209479177387814
    expected = [0.1, 0.2, 0.3, 0, 0, 0, dc, 0, -dc, 1.5, -1, -2, -3, 2, 0.5, -0.5, 0.25]
    np.testing.assert_allclose(np.frombuffer(numbers, "<f4"), expected, rtol=1e-6, atol=1e-7)


def test_a_foreign_file_is_read_in_any_order_and_with_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = foreign(3, x=0.5, f_dc_1=1.0, opacity=-2.0, scale_2=-4.0, rot_3=-1.0)
    write_ply(tmp_path / "a.ply", rows)
    found = read_gaussians(tmp_path / "a.ply")
    assert found["means"][2].tolist() == [0.5, 0, 0]
    assert found["quaternions"][2].tolist() == [1, 0, 0, -1]
    assert found["log_scales"][2].tolist() == [0, 0, -4]
    assert found["opacity_logits"].tolist() == [0, 0, -2]
    colour = found["colour_logits"].sigmoid()
    torch.testing.assert_close(colour[2], torch.tensor([0.5, 0.5 + 0.28209479, 0.5]))
    assert caplog.text == ""
    turned = rows[list(reversed(rows.dtype.names))]
    write_ply(tmp_path / "b.ply", turned)
    assert all(torch.equal(found[n], v) for n, v in read_gaussians(tmp_path / "b.ply").items())
    rows["f_rest_44"][1] = 0.1
    write_ply(tmp_path / "c.ply", rows)
    with caplog.at_level(logging.WARNING):
        again = read_gaussians(tmp_path / "c.ply")
    assert (
        "c.ply: its colours depend on the view (f_rest_…); their mean over all sides is taken" in caplog.text
    )
    assert all(torch.equal(found[n], v) for n, v in again.items())


@pytest.mark.parametrize(("f_dc", "shown"), [(5.0, 1.0), (-5.0, 0.0)])
def test_colours_beyond_what_is_shown_are_moved_to_the_rim(tmp_path: Path, f_dc: float, shown: float) -> None:
    write_ply(tmp_path / "a.ply", foreign(f_dc_0=f_dc))
    logits = read_gaussians(tmp_path / "a.ply")["colour_logits"]
    assert logits.isfinite().all()
    assert float(logits[1, 0].sigmoid()) == pytest.approx(shown, abs=2e-4)


@pytest.mark.parametrize("name", ["opacity", "scale_1", "rot_3", "f_dc_2", "y"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    rows = foreign(degree=0)
    write_ply(tmp_path / "a.ply", rows[[n for n in rows.dtype.names if n != name]])
    with pytest.raises(UserError, match=rf"a\.ply has no property {name} of its vertices, which Gaussians "):
        read_gaussians(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": math.nan}, "x of vertex 1 is nan; all numbers must be finite"),
        ({"opacity": math.inf}, "opacity of vertex 1 is inf"),
        ({"f_dc_1": -math.inf}, "f_dc_1 of vertex 1 is -inf"),
        ({"rot_0": 0.0}, "vertex 1 has a rotation of length 0"),
        ({"scale_0": 100.0}, "scale_0 of vertex 1 is 100, which is the logarithm of no finite scale"),
    ],
)
def test_numbers_that_make_no_picture_are_refused(
    tmp_path: Path, changes: dict[str, float], said: str
) -> None:
    write_ply(tmp_path / "a.ply", foreign(**changes))
    with pytest.raises(UserError, match=said):
        read_gaussians(tmp_path / "a.ply")


def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    """Bytes changed, cut out and put in, most of them in the header."""
    write_ply(tmp_path / "a.ply", foreign(3, degree=0))
    content, draw = (tmp_path / "a.ply").read_bytes(), random.Random(0)
    refused = []
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(damaged) if draw.random() < 0.3 else 60)
            size = draw.choice((0, 1, 1, 4))
            damaged[at : at + size] = draw.randbytes(draw.choice((0, 1, size)))
        (tmp_path / "b.ply").write_bytes(damaged)
        try:
            found = read_gaussians(tmp_path / "b.ply")
        except UserError as error:
            refused.append(str(error))
        else:
            assert all(value.isfinite().all() for value in found.values())
    assert len(refused) > 200
    assert not [said for said in refused if "\n" in said or len(said) > 500]
