"""Latents in shards: exact, random, and encoded once whatever happens in between."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor

from carv_distill.data import latents
from carv_distill.data.batches import step_loader
from carv_distill.data.latents import CachedLatents, LatentCache, draw_latents
from carv_distill.data.sets import ImageSpec, LabelledImages
from carv_distill.errors import UserError

COUNT = 22
IMAGES = LabelledImages(
    torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1),
    torch.arange(COUNT) % 5,
    ImageSpec("set", channels=3, size=8, classes=5),
)


class Encoder:
    """Means and deviations of 2×2 pixels; knows how many images it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(x)
        parts = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        return parts.mean(-1), parts.std(-1)


def cache(folder: Path, key: str = "a") -> LatentCache:
    return LatentCache(folder, key, COUNT, shard=4)


def filled(folder: Path) -> LatentCache:
    made = cache(folder)
    made.fill(IMAGES, Encoder(), batch=3)
    return made


def shards(folder: Path) -> list[Path]:
    return list(folder.glob("latents-*"))


def test_moments_are_those_of_the_encoder_to_the_bit(tmp_path: Path) -> None:
    encode = Encoder()
    data = CachedLatents(filled(tmp_path), IMAGES.labels, IMAGES.spec)
    assert (len(data), data.spec) == (COUNT, ImageSpec("set", channels=6, size=4, classes=5))
    assert sorted(p.name for p in shards(tmp_path)) == [f"latents-{n:05d}.safetensors" for n in range(6)]
    pick = torch.tensor([21, 0, 3, 4, 4, 20])
    moments, labels = data.batch(pick)
    assert torch.equal(moments, torch.cat(encode(IMAGES.images[pick]), 1))
    assert torch.equal(labels, IMAGES.labels[pick])
    again = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    assert torch.equal(again.batch(pick)[0], moments)


def test_a_draw_is_mean_and_deviation_times_noise() -> None:
    """Over 4,000 noises: mean within 4 SE = 4 s/√4000, and s within 4 SE = 4 s/√8000."""
    mean, std = torch.tensor([0.3, -2.0]), torch.tensor([0.5, 0.01])
    moments = torch.cat([mean, std]).view(1, 4, 1, 1).expand(4000, -1, 2, 1)
    noise = torch.randn(4000, 2, 2, 1, generator=torch.Generator().manual_seed(1))
    x = draw_latents(moments, noise)
    assert torch.equal(x, moments[:, :2] + moments[:, 2:] * noise)
    assert (x.mean(0)[..., 0] - mean[:, None]).abs().le(4 * std[:, None] / 4000**0.5).all()
    assert (x.std(0)[..., 0] - std[:, None]).abs().le(4 * std[:, None] / 8000**0.5).all()
    assert torch.equal(draw_latents(moments, torch.zeros_like(noise)), moments[:, :2])


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_read_them_as_they_read_images(workers: int, tmp_path: Path) -> None:
    data = CachedLatents(filled(tmp_path), IMAGES.labels, IMAGES.spec)
    data.batch(torch.tensor([5]))  # a shard is open before the workers fork
    pictures = islice(step_loader(IMAGES, 8, 0, "real", [0], 7, 0), 3)
    for (x, a), (moments, b) in zip(pictures, step_loader(data, 8, 0, "real", [0], 7, workers), strict=False):
        assert torch.equal(torch.cat(Encoder()(x), 1), moments)
        assert torch.equal(a, b)


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    made = filled(tmp_path)
    whole = {path: path.read_bytes() for path in shards(tmp_path)}
    encode = Encoder()
    made.fill(IMAGES, encode)
    assert encode.seen == 0
    made.path(1).unlink()
    made.path(5).write_bytes(whole[made.path(5)][:-1])  # as a copy that was broken off
    made.path(3).write_bytes(b"")
    with pytest.raises(UserError, match=r"latents-00001\.safetensors is missing or damaged"):
        CachedLatents(made, IMAGES.labels, IMAGES.spec)
    assert made.missing() == [1, 3, 5]
    seen: list[int] = []
    made.fill(IMAGES, encode, batch=3, progress=seen.append)
    assert (encode.seen, seen) == (4 + 4 + 2, [3, 1, 3, 1, 2])
    assert {path: path.read_bytes() for path in shards(tmp_path)} == whole


def test_latents_of_something_else_are_refused_before_any_work(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "latents-00000.safetensors").unlink()
    encode = Encoder()
    others = [
        cache(tmp_path, key="b"),
        LatentCache(tmp_path, "a", COUNT - 1, shard=4),
        LatentCache(tmp_path, "a", COUNT, shard=5),
    ]
    for other in others:
        with pytest.raises(UserError, match=r"latents-00001\.safetensors holds latents of other") as caught:
            other.fill(IMAGES, encode)
        assert "\n" not in str(caught.value)
    save_file({"mean": torch.zeros(4, 3, 4, 4), "std": torch.zeros(4, 3, 4, 4)}, cache(tmp_path).path(0))
    with pytest.raises(UserError, match=r"latents-00000\.safetensors holds latents of other"):
        cache(tmp_path).fill(IMAGES, encode)
    assert encode.seen == 0


def test_a_disk_that_fills_up_is_a_line_and_the_shards_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its third shard, in the middle of the file."""
    made, fsync, encode = cache(tmp_path), os.fsync, Encoder()
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"00002\.safetensors cannot be written \(No space left") as caught:
        made.fill(IMAGES, encode)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 2
    assert not list(tmp_path.glob(".*.tmp"))  # nothing half written is left
    assert made.missing() == [2, 3, 4, 5]
    encode.seen = 0
    made.fill(IMAGES, encode)
    assert (encode.seen, made.missing()) == (COUNT - 8, [])


def test_a_disk_that_is_too_small_is_said_after_the_first_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 5000})
    monkeypatch.setattr(latents.shutil, "disk_usage", lambda folder: usage)
    encode = Encoder()
    with pytest.raises(UserError, match=r"6 shards need 10,\d\d\d bytes, 5,000 are free"):
        cache(tmp_path).fill(IMAGES, encode)
    assert encode.seen == 4


def test_latents_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = Encoder()(x)
        mean[x[:, 0, 0, 0] == IMAGES.images[6, 0, 0, 0]] = float("nan")
        return mean, std

    made = cache(tmp_path)
    with pytest.raises(UserError, match=r"latents of images 4 to 6 are not finite; .* float16 needs float32"):
        made.fill(IMAGES, encode, batch=3)
    assert made.missing() == [1, 2, 3, 4, 5]


class Killed(Encoder):
    """Ends the process at the twelfth image, the last one of the third shard."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.seen == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(x)


def fill_until_killed(folder: Path) -> None:
    cache(folder).fill(IMAGES, Killed(), batch=1)


@pytest.mark.slow
def test_after_a_kill_the_missing_shards_are_made(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=fill_until_killed, args=(tmp_path / "cache",)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    made, encode = cache(tmp_path / "cache"), Encoder()
    assert made.missing() == [2, 3, 4, 5]
    made.fill(IMAGES, encode)
    assert encode.seen == COUNT - 8
    data = CachedLatents(made, IMAGES.labels, IMAGES.spec)
    assert torch.equal(data.batch(torch.arange(COUNT))[0], torch.cat(encode(IMAGES.images), 1))


class Slow(Encoder):
    """Notes the images that it has seen, and gives the others time."""

    def __init__(self, note: Path) -> None:
        super().__init__()
        self.note = note

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self.note.open("a") as file:
            file.writelines(f"{float(image[0, 0, 0])}\n" for image in x)
        time.sleep(0.05)
        return super().__call__(x)


def fill_slowly(folder: Path, note: Path) -> None:
    made = cache(folder)
    made.fill(IMAGES, Slow(note), batch=1)
    assert made.missing() == []


@pytest.mark.slow
@pytest.mark.ddp
def test_processes_share_the_work_and_wait_for_each_other(tmp_path: Path) -> None:
    """Two that know nothing of each other: together they encode every image once, each of them some, and
    each returns when all is there."""
    context = multiprocessing.get_context("spawn")
    notes = [tmp_path / "0", tmp_path / "1"]
    processes = [context.Process(target=fill_slowly, args=(tmp_path / "cache", note)) for note in notes]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    seen = [line for note in notes if note.exists() for line in note.read_text().split()]
    assert sorted(map(float, seen)) == sorted(IMAGES.images[:, 0, 0, 0].tolist())


def test_shards_of_one_image_are_claimed_a_few_at_a_time(tmp_path: Path) -> None:
    """A lock is an open file, of which a process may have some 1,024, and others want a share of the work."""
    each = LatentCache(tmp_path, "a", COUNT, shard=1)
    held: list[int] = []
    files = Path("/proc/self/fd")

    class Counting(Encoder):
        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
            held.append(sum(str(link.resolve()).startswith(f"{tmp_path}/.locks") for link in files.iterdir()))
            return super().__call__(x)

    each.fill(IMAGES, Counting())
    assert each.missing() == []
    assert held == [16] * 16 + [COUNT - 16] * (COUNT - 16)


def test_a_shard_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    """Held by another, it is passed over; let go unfinished, it is made by who waits."""
    made, encode = cache(tmp_path), Encoder()
    (tmp_path / ".locks").mkdir()
    other = FileLock(tmp_path / ".locks/00002", thread_local=False)
    other.acquire()
    seen: list[int] = []

    def progress(count: int) -> None:
        seen.append(count)
        if sum(seen) == COUNT - 4:
            assert made.missing() == [2, 5]  # the last one is being made
            other.release()

    made.fill(IMAGES, encode, progress=progress)
    assert seen == [4, 4, 4, 4, 2, 4]
    assert (made.missing(), encode.seen) == ([], COUNT)


def test_wanted_shards_alone_are_made(tmp_path: Path) -> None:
    some = cache(tmp_path)
    wanted = some.shards([0, COUNT - 1, 1])
    assert wanted == [0, (COUNT - 1) // 4]
    seen: list[int] = []
    some.fill(IMAGES, Encoder(), progress=seen.append, wanted=wanted)
    assert sum(seen) == sum(len(some.images(shard)) for shard in wanted)
    assert some.missing(wanted) == some.missing([]) == []
    assert some.missing() == [shard for shard in range(len(some)) if shard not in wanted]
