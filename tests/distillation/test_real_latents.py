"""Latents of a discriminator's real images: encoded once, and the objective is the one of the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.batches import step_loader
from carv_distill.data.images import load_captioned
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.real_latents import RealLatents
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.processes import Share
from carv_distill.tasks import load_config, train
from carv_distill.teachers.pipelines.codecs import ImageLatents
from tests.helpers.captioned_files import beside, photos
from tests.helpers.image_files import as_folder, as_zip
from tests.helpers.tiny_latent import save_tiny_pipeline

SHAPES = ("data.size=8", "data.views=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("real")
    save_tiny_pipeline(place / "sd")
    (place / "prompts").mkdir()
    return place


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Images of each call of the encoder."""
    calls: list[int] = []
    posterior = ImageLatents.posterior

    def counted(codec: ImageLatents, images: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(images))
        return posterior(codec, images)

    monkeypatch.setattr(ImageLatents, "posterior", counted)
    return calls


def config(folder: Path, cache: Path, *words: str) -> DMDConfig:
    cache.mkdir(exist_ok=True)
    loaded = load_config(
        "text_to_image/dmd_shapes",
        [
            f"teacher.path={folder / 'sd'}",
            f"prompts.cache={folder / 'prompts'}",
            f"folder={cache / 'runs'}",
            f"dmd.gan.cache={cache}",
            "dmd.gan.fake_weight=0.1",
            "dmd.gan.student_weight=0.1",
            "dmd.student_timestep=null",
            "estimator.upstream=2",
            "dmd.fake_batch=4",
            "fid.every=0",
            "checkpoint.every=1",
            "trainer.accelerator=cpu",
            "trainer.max_steps=2",
            "trainer.log_every=1",
            "dmd.lr_decay=none",
            *words,
        ],
    )
    assert isinstance(loaded, DMDConfig)
    return loaded


def module_of(options: DMDConfig) -> DMDModule:
    module = build_module(options, load_data(options))
    if isinstance(module.real, RealLatents):
        assert isinstance(module.objective.codec, ImageLatents)
        module.real.fill(module.objective.codec)
    return module


@pytest.mark.parametrize("captions", ["shapes", "folder", "zip"])
def test_the_losses_are_those_of_images_that_are_encoded_anew(
    captions: str, folder: Path, tmp_path: Path
) -> None:
    """Two updates' images, each as an update draws them: latents and losses are equal, to the rounding of
    float32 where the encoder's batches differ."""
    words: tuple[str, ...] = SHAPES
    if captions != "shapes":
        write = as_folder if captions == "folder" else as_zip
        words = ("data.name=captioned", f"data.path={write(tmp_path, photos() | beside())}", "data.size=8")
        words = (*words, "data.views=66", "data.workers=0")
    losses, latents = [], []
    for way in ("encoded", "cached"):
        module = module_of(config(folder, tmp_path / "cache", *words, f"dmd.gan.latents={way}"))
        o = module.objective
        assert module.real is not None
        for step, batch in zip(range(2), module.real([0], 3), strict=False):
            images, labels = batch
            assert images.shape[1:] == module.real_shape == ((3, 8, 8) if way == "encoded" else (8, 4, 4))
            latents.append(o._encode_real(images, stream("draw", step)))
            samples = o.student_samples(stream("samples", step))
            streams = stream("own", step), stream("shared", step)
            losses.append(o.fake_loss(Share(0, 1), samples, *streams, (images, labels)))
    for i in range(2):
        torch.testing.assert_close(latents[i], latents[i + 2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(losses[i], losses[i + 2], rtol=1e-5, atol=0)
        assert latents[i].std() > 0.01


def test_images_and_labels_of_an_update_are_those_of_the_images(folder: Path, tmp_path: Path) -> None:
    options = config(folder, tmp_path / "cache", *SHAPES)
    module, data = module_of(options), load_captioned(options.data)
    assert isinstance(module.real, RealLatents)
    assert isinstance(module.objective.codec, ImageLatents)
    plain = step_loader(data, 4, 0, "real", [1, 2], 5, 0)
    for (moments, a), (images, b), _ in zip(module.real([1, 2], 5), plain, range(2), strict=False):
        assert torch.equal(a, b)
        expected = torch.cat(module.objective.codec.posterior(images), 1)
        torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_second_run_encodes_nothing(folder: Path, tmp_path: Path, seen: list[int]) -> None:
    """56 renders once, whatever runs and goes on; other images have latents of their own, and so has another
    autoencoder."""
    runs = [train(config(folder, tmp_path / "cache", *SHAPES, f"name=run{i}")) for i in range(2)]
    assert sum(seen) == 56
    first, second = ([r["loss/fake"] for r in read_metrics(run / "metrics.csv")] for run in runs)
    assert first == second
    assert len(first) == 2
    train(config(folder, tmp_path / "cache", *SHAPES, "name=run0", "trainer.max_steps=3"), resume=True)
    assert sum(seen) == 56
    train(config(folder, tmp_path / "cache", "data.size=8", "data.views=2", "name=more"))
    assert sum(seen) == 56 + 112
    train(config(folder, tmp_path / "cache", *SHAPES, "name=again"))
    assert sum(seen) == 56 + 112
    save_tiny_pipeline(tmp_path / "sd")
    settings = tmp_path / "sd/vae/config.json"
    settings.write_text(settings.read_text().replace("0.18215", "0.13025"))
    train(config(folder, tmp_path / "cache", *SHAPES, f"teacher.path={tmp_path / 'sd'}", "name=other"))
    assert sum(seen) == 56 + 112 + 56


@pytest.mark.slow
def test_without_the_cache_every_update_encodes_its_images(
    folder: Path, tmp_path: Path, seen: list[int]
) -> None:
    train(config(folder, tmp_path / "cache", *SHAPES, "dmd.gan.latents=encoded"))
    assert seen == [4, 4]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["runs"]


def test_an_image_that_cannot_be_read_is_said_before_the_runs_folder_is_made(
    folder: Path, tmp_path: Path
) -> None:
    place = Path(as_folder(tmp_path, photos() | beside()))
    words = ("data.name=captioned", f"data.path={place}", "data.size=8", "data.views=66", "data.workers=0")
    options = config(folder, tmp_path / "cache", *words)
    data = load_data(options)
    (place / "b/3.png").write_bytes((place / "b/3.png").read_bytes()[:60])
    real = build_module(options, data).real
    assert isinstance(real, RealLatents)
    with pytest.raises(UserError, match=r"b/3\.png is no whole image"):
        train(options)
    assert not (tmp_path / "cache/runs").exists()


@pytest.mark.parametrize("word", ["dmd.gan.cache={}", "dmd.gan.latents=encoded"])
def test_runs_of_labels_have_no_latents(word: str, tmp_path: Path) -> None:
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"{key}: .* is for teachers with prompts"):
        load_config("dmd_carv", [word.format(tmp_path)])
