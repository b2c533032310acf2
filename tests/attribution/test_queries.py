"""What may be asked about, and what is none."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.queries import read_queries
from carv_distill.attribution.training_data import named_model
from carv_distill.data.images import load_images
from carv_distill.data.stored import load_stored_images
from carv_distill.errors import UserError
from tests.helpers.attributed import few_digits, tiny_teacher
from tests.helpers.tiny_unet import tiny_unet


def test_queries_from_a_file_and_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    whole = load_model(tiny_teacher(tmp_path), "cpu")
    images = load_images("digits").images[:2]
    path = tmp_path / "queries.npz"
    np.savez(path, images=images.numpy(), labels=np.array([3, 4]))
    queries = read_queries(str(path), whole)
    assert queries.words == ["3", "4"]
    assert [queries.title(n) for n in range(2)] == ["queries.npz #0 (3)", "queries.npz #1 (4)"]
    assert queries.numbers is None
    assert torch.equal(queries.batch.x, images)
    np.savez(path, images=((images + 1) * 127.5).to(torch.uint8).numpy(), labels=np.array([3, 4]))
    assert torch.allclose(read_queries(str(path), whole).batch.x, images, atol=0.01)
    broken: list[tuple[dict[str, Any], str]] = [
        ({"images": images}, "lacks labels; it has images"),
        (
            {"images": images[:, 0], "labels": [1, 2]},
            r"has images \[2, 8, 8\], the model's are \['n', 1, 8, 8\]",
        ),
        ({"images": images, "labels": [1]}, "has 2 images and 1 labels"),
        ({"images": images * 3, "labels": [1, 2]}, "has pixels outside"),
        ({"images": images, "labels": [1, 12]}, "has labels outside 0 … 9"),
        (
            {"images": images, "labels": [[1], [2]]},
            r"has labels \[2, 1\] of int64; whole numbers \[n\] are needed",
        ),
        (
            {"images": images, "labels": [3.7, 4.0]},
            r"has labels \[2\] of float64; whole numbers \[n\] are needed",
        ),
        (
            {"images": images, "labels": ["3", "4"]},
            r"has labels \[2\] of <U1; whole numbers \[n\] are needed",
        ),
        ({"images": np.array([None]), "labels": [1]}, "is no readable .npz of numbers"),
    ]
    for content, said in broken:
        np.savez(path, **{k: np.asarray(v) for k, v in content.items()}, allow_pickle=True)
        with pytest.raises(UserError, match=rf"--queries: .*queries.npz {said}"):
            read_queries(str(path), whole)
    np.savez_compressed(path, images=images.numpy(), labels=np.array([3, 4]))
    content = path.read_bytes()
    for at in range(60, len(content), 40):  # whatever is damaged: one line, or nothing that matters
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        with suppress(UserError):
            read_queries(str(path), whole)
    for words, said in (
        ("samples:0", "samples:8 asks for eight"),
        ("data:70", "numbers from 0 to 69"),
        ("data:x", "numbers from 0 to 69"),
        (str(tmp_path / "none.npz"), "is no file or folder"),
        ("prompt:a cube", "has labels, not prompts"),
    ):
        with pytest.raises(UserError, match=f"--queries: .*{said}"):
            read_queries(words, whole)


def test_pictures_to_ask_about_may_lack_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training set that leaves a label out is a mistake; two sevens are a question."""
    few_digits(monkeypatch)
    model, place = load_model(tiny_teacher(tmp_path), "cpu"), tmp_path / "sevens"
    place.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 200).save(place / name)
    (place / "dataset.json").write_text(json.dumps({"labels": [["a.png", 7], ["b.png", 7]]}))
    assert read_queries(str(place), model).words == ["7", "7"]
    with pytest.raises(UserError, match=r"labels up to 7, but no image with label 0; they must be 0 … n−1"):
        load_stored_images(str(place))
    (place / "dataset.json").write_text(json.dumps({"labels": [["a.png", 7], ["b.png", 12]]}))
    with pytest.raises(UserError, match=r"--queries: .*sevens has labels outside 0 … 9"):
        read_queries(str(place), model)


def test_queries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their seeds, their numbers in the training set, or their files; not by their labels alone."""
    few_digits(monkeypatch)
    model = load_model(tiny_teacher(tmp_path), "cpu")

    def titles(words: str) -> list[str]:
        queries = read_queries(words, model)
        return [queries.title(n) for n in range(len(queries))]

    assert titles("samples:2") == ["seed 0 (0)", "seed 1 (1)"]
    assert titles("data:3,14") == ["#3 (3)", "#14 (4)"]
    images = ((load_images("digits").images[:2, 0] + 1) * 127.5).to(torch.uint8).numpy()
    for name, image in zip(("a.png", "b/c.png"), images, strict=True):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "mine" / name)
    labels = {"labels": [["a.png", 1], ["b/c.png", 0]]}
    (tmp_path / "mine/dataset.json").write_text(json.dumps(labels))
    assert titles(str(tmp_path / "mine")) == ["a.png (1)", "b/c.png (0)"]
    model = replace(model, training=model.training.some([3, 14]))  # as data.only takes them
    assert titles("data:14") == ["#14 (4)"]
    with pytest.raises(
        UserError, match="data: takes numbers from 3 to 14, as data:3,14, of the samples that"
    ):
        titles("data:5")


def test_a_folder_of_each_class_is_numbered_as_in_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of digits the classes are called by their numbers."""
    few_digits(monkeypatch)
    model = load_model(tiny_teacher(tmp_path), "cpu")
    for name in ("asked/7/a.png", "asked/2/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 200).save(tmp_path / name)
    assert read_queries(str(tmp_path / "asked"), model).words == ["2", "7"]
    assert read_queries(str(tmp_path / "asked/7"), model).words == ["7"]
    (tmp_path / "asked/2").rename(tmp_path / "asked/two")
    with pytest.raises(UserError, match=r"--queries: .*b\.png lies in none of them \(0, 1, 2, 3, 4, … 9\)"):
        read_queries(str(tmp_path / "asked"), model)


def test_a_runs_own_pictures_are_read_as_in_its_training(tmp_path: Path) -> None:
    """Grey among colours, which data.convert=rgb makes alike."""
    network = tiny_unet(channels=3)
    DDPMPipeline(network, DDPMScheduler(50)).save_pretrained(tmp_path / "teacher")
    (tmp_path / "set").mkdir()
    for name, mode in (("a.png", "RGB"), ("b.png", "L")):
        Image.new(mode, (8, 8)).save(tmp_path / "set" / name)
    options = InfluenceOptions(teacher=str(tmp_path / "teacher"), data=str(tmp_path / "set"), convert="rgb")
    model = load_model(named_model(options), "cpu")
    assert read_queries(str(tmp_path / "set"), model).batch.x.shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"data\.convert=rgb makes colours of all"):
        load_model(named_model(replace(options, convert="none")), "cpu")
    with pytest.raises(UserError, match=r"^--convert: rgb is for --data; a run says it by its data\.convert"):
        InfluenceOptions(convert="rgb")
    with pytest.raises(UserError, match=r"^--convert: rgb is for pictures without captions"):
        named_model(replace(options, data="shapes"))


def test_a_model_without_condition_is_asked_by_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_digits(monkeypatch)
    model = replace(load_model(tiny_teacher(tmp_path), "cpu"), classes=0)
    images, path = load_images("digits").images[:2], tmp_path / "queries.npz"
    np.savez(path, images=images.numpy())
    assert torch.equal(read_queries(str(path), model).batch.x, images)
    model = replace(model, classes=None)
    for prompts in ([3, 4], [["a cube"], ["a torus"]]):
        np.savez(path, images=images.numpy(), prompts=np.array(prompts))
        with pytest.raises(
            UserError, match=r"--queries: .*has prompts \[2.*\] of .*; texts \[n\] are needed"
        ):
            read_queries(str(path), model)
    model = replace(model, classes=0)
    with pytest.raises(UserError, match="--queries: 'prompt:a cube'; the model has no prompts"):
        read_queries("prompt:a cube", model)
