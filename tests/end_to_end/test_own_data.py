"""evaluate.py influence of a teacher and data of one's own, each by one command, without a run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline, DDPMScheduler

from tests.helpers.captioned_files import beside, photos
from tests.helpers.forked import run
from tests.helpers.image_files import as_folder, as_zip, pictures
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import save_wan
from tests.helpers.tiny_unet import tiny_unet
from tests.helpers.video_files import counted, video_bytes

FEW = [
    *("--draws", "4", "--groups", "2", "--size", "32", "--noise", "iid", "--proposal", "uniform"),
    *("--device", "cpu", "--workers", "0"),
]


def films(count: int, frames: int = 5) -> dict[str, bytes]:
    """Clips of levels of grey, of which another part lies under a bar that moves, with their captions beside
    them."""
    files: dict[str, bytes] = {}
    for n in range(count):
        pictures = counted(frames + n, (16, 16))
        for t, picture in enumerate(pictures):
            picture[:, 3 * n + t :][:, :2] = 255
        files[f"{n}.mp4"] = video_bytes(pictures)
        files[f"{n}.txt"] = f"film number {n}".encode()
    return files


def influence(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    out = ["--out", str(folder / "scores.json"), "--cache", str(folder / "cache")]
    return run("evaluate.py", "influence", *words, *FEW, *out)


def scores_of(folder: Path) -> np.ndarray:
    with np.load(folder / "scores/cosine.npz") as found:
        scores: np.ndarray = found["scores"]
    return scores


@pytest.mark.slow
def test_a_ddpm_folder_with_a_folder_of_images(tmp_path: Path) -> None:
    teacher = tmp_path / "ddpm"
    unet = tiny_unet(channels=3)
    DDPMPipeline(unet, DDPMScheduler(50)).save_pretrained(teacher)
    data = as_folder(tmp_path / "data", pictures(labels=False))
    some = as_zip(tmp_path, pictures(2, labels=False))
    done = influence(tmp_path, "--teacher", str(teacher), "--data", data, "--queries", some)
    assert done.returncode == 0, done.stderr
    assert scores_of(tmp_path).shape == (2, 6)
    top = json.loads((tmp_path / "scores.json").read_text())["queries"][0]["top"][0]
    assert top["name"].endswith(".png")
    assert top["name"] in done.stdout


@pytest.mark.slow
def test_a_stable_diffusion_with_captioned_images(tmp_path: Path) -> None:
    teacher = save_tiny_pipeline(tmp_path / "pipeline")
    data = as_folder(tmp_path / "data", photos() | beside())
    words = ("--teacher", str(teacher), "--data", data)
    done = influence(tmp_path, *words, "--queries", "prompt:a red torus", "--among", "2")
    assert done.returncode == 0, done.stderr
    assert scores_of(tmp_path).shape == (1, 2)
    done = influence(tmp_path, *words, "--motion", "flow")
    assert done.returncode == 2
    assert "--motion: flow is of clips" in done.stderr


@pytest.mark.slow
def test_a_wan_with_clips(tmp_path: Path) -> None:
    """Twice, the second time from what is kept; weighed by motion; a mistake names what was typed."""
    teacher = save_wan(tmp_path / "wan")
    data = as_folder(tmp_path / "data", films(4))
    words = ("--teacher", str(teacher), "--data", data, "--resolution", "5", "16", "16")
    # A chunk that is chosen by its speed rounds otherwise from time to time.
    moving = ("--motion", "flow", "--normalise", "draw", "--queries", data, "--chunk", "2")
    done = influence(tmp_path, *words, *moving)
    assert done.returncode == 0, done.stderr
    assert "latents: encoding 4 of 4" in done.stderr
    first = scores_of(tmp_path)
    assert first.shape == (4, 4)
    np.testing.assert_allclose(first, first.T, rtol=1e-6)
    assert len(np.unique(first.round(5))) == 10  # four clips, no two alike
    done = influence(tmp_path, *words, *moving)
    assert done.returncode == 0, done.stderr
    assert "latents: encoding" not in done.stderr
    np.testing.assert_array_equal(scores_of(tmp_path), first)
    assert (tmp_path / "scores/cosine.png").stat().st_size > 5000
    done = influence(tmp_path, *words, "--queries", data)
    assert done.returncode == 2
    assert "store: made with" in done.stderr


@pytest.mark.parametrize(
    ("resolution", "data", "said"),
    [
        ((), "images", r"--data: .* holds no clips .* but the picture .*png"),
        (("6", "16", "16"), "clips", "--resolution: 6 is not 4k"),
        (("9", "16", "16"), "clips", "0.mp4 has too few frames: 5"),
        (("5", "16", "16"), "nowhere", "--data: .*nowhere is neither a place nor one of digits"),
        ((), "shapes", "--data: .* is a WanPipeline, which learns from clips; images are given"),
    ],
)
def test_data_that_do_not_fit_are_one_line(
    tmp_path: Path, resolution: tuple[str, ...], data: str, said: str
) -> None:
    teacher = save_wan(tmp_path / "wan")
    as_folder(tmp_path / "images", photos() | beside())
    as_folder(tmp_path / "clips", films(2))
    place = data if data == "shapes" else str(tmp_path / data)
    more = ("--resolution", *resolution) if resolution else ()
    done = influence(tmp_path, "--teacher", str(teacher), "--data", place, *more)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    last = done.stderr.splitlines()[-1]
    assert re.search(said, last), last
