"""Runs as a user makes them: their folder, resume to the bit, faults."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel

from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.callbacks import Export
from carv_distill.engine.checkpoints import newest_checkpoint
from carv_distill.engine.fid_trace import FIDTrace
from carv_distill.engine.folder import product_step
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import StoppedError, UserError
from carv_distill.tasks import load_config, open_run, train
from tests.helpers.launch import finish, start
from tests.helpers.runs import assert_same_run, networks
from tests.helpers.small import ROOT, SMALL, largest_file

MakeConfig = Callable[..., DMDConfig]
TRACED = ("preview.every=2", "fid.every=5", "fid.images=64", "variance.every=4", "variance.pairs=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole traced run of ten updates that nothing interrupts."""
    folder = tmp_path_factory.mktemp("finished")
    words = (*SMALL, "name=whole", "trainer.max_steps=10", *TRACED, f"folder={folder}")
    return train(load_config(ROOT / "configs/dmd_carv.yaml", words))


@pytest.fixture(scope="module")
def two_updates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of two updates, of which tests take copies."""
    words = (*SMALL, "trainer.max_steps=2", f"folder={tmp_path_factory.mktemp('two_updates')}")
    return train(load_config(ROOT / "configs/dmd_carv.yaml", words))


@pytest.fixture
def short(two_updates: Path, tmp_path: Path) -> Path:
    """A run of two updates in the folder of the test's own configurations."""
    return Path(shutil.copytree(two_updates, tmp_path / "runs" / two_updates.name, symlinks=True))


def test_a_run_keeps_what_the_design_promises(finished: Path) -> None:
    for name in ("config.yaml", "environment.json", "metrics.csv", "checkpoints/last.ckpt", "summary.json"):
        assert (finished / name).is_file(), name
    assert list((finished / "tensorboard").glob("events*"))
    assert (finished / "figures/variance_vs_fid.png").read_bytes().startswith(b"\x89PNG")
    assert {p.stem for p in (finished / "samples").iterdir()} == {f"{s:06d}" for s in range(0, 11, 2)}
    UNet2DModel.from_pretrained(finished / "student" / "unet")
    assert yaml.safe_load((finished / "config.yaml").read_text())["estimator"]["strategy"] == "stratified"
    rows = {int(r["step"]): r for r in read_metrics(finished / "metrics.csv")}
    assert sorted(rows) == list(range(11))
    seconds = [rows[step]["seconds"] for step in range(11)]
    assert seconds == sorted(seconds)
    assert all("variance/carv/within_high" in rows[s] and "variance/iid/snr" in rows[s] for s in (4, 8))
    assert all("fid/recall" in rows[s] for s in (0, 5, 10))
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["last"]["step"] == 10
    assert summary["best_fid"]["fid"] == min(r["fid/fid"] for s, r in rows.items() if s and "fid/fid" in r)
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["world_size"] == 1
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.slow
def test_tracing_does_not_change_training(finished: Path, small_config: MakeConfig) -> None:
    plain = train(small_config("name=plain", "trainer.max_steps=10"))
    a, b = networks(plain, 10), networks(finished, 10)
    assert all(torch.equal(a[k], b[k]) for k in a)


class InterruptedRunError(RuntimeError):
    """Stands for whatever ends a process."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, phase: int) -> None:
    """Raises inside the given student update, before its fake-score update number `phase`."""
    original = DMDModule.fake_update

    def fake_update(self: DMDModule, optimizer: Any, at: int, i: int, *samples: Any) -> torch.Tensor:
        if (at, i) == (step, phase):
            raise InterruptedRunError
        return original(self, optimizer, at, i, *samples)

    monkeypatch.setattr(DMDModule, "fake_update", fake_update)


@pytest.mark.slow
def test_resume_at_five_random_points_is_exact_to_the_bit(
    finished: Path, small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one run: each attempt goes on from what the one before it had."""
    rng = random.Random(0)
    config = small_config("name=cut", "trainer.max_steps=10", *TRACED)
    for step in sorted(rng.sample(range(2, 10), 5)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, rng.randrange(2))
            with pytest.raises(InterruptedRunError):
                train(config, requeue=True)
    assert_same_run(finished, train(config, resume=True), 10)


@pytest.mark.slow
def test_resume_with_an_adaptive_proposal_is_exact_to_the_bit(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What past draws taught goes on from the checkpoint, and measuring does not teach."""
    words = ("estimator.strategy=nested", "estimator.proposal=adaptive", "estimator.statistic=neyman")
    words = (*words, "estimator.refresh=2", "estimator.bins=8", "checkpoint.every=3", "trainer.max_steps=6")
    traced = (*words, "variance.every=3", "variance.pairs=3")
    whole = train(small_config("name=whole", *traced))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, 1)
        with pytest.raises(InterruptedRunError):
            train(small_config("name=cut", *traced))
    assert_same_run(whole, train(small_config("name=cut", *traced), resume=True), 6)
    plain = train(small_config("name=plain", *words))
    a, b = networks(whole, 6), networks(plain, 6)
    assert all(torch.equal(a[k], b[k]) for k in a)
    weights = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["adaptive"]["weights"]
    assert weights.std() > 0
    uniform = train(small_config("name=uniform", "trainer.max_steps=6", "estimator.strategy=nested"))
    assert not all(torch.equal(a[k], v) for k, v in networks(uniform, 6).items())


@pytest.mark.slow
@pytest.mark.parametrize("phase", [0, 1])
def test_resume_of_a_published_kind_of_run_is_exact_to_the_bit(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    """A discriminator on the teacher's features with an optimiser of its own, three averages, measured."""
    gan = ("features=teacher", "scales=2", "optimiser=own", "student_weight=0.1", "fake_weight=1")
    words = (*(f"dmd.gan.{word}" for word in gan), "dmd.gan.r1_weight=1", "dmd.fake_loss=x0")
    words = (
        *words,
        "dmd.ema_beside=[0.5,0.9]",
        "trainer.max_steps=5",
        "variance.every=2",
        "variance.pairs=3",
    )
    whole = train(small_config("name=whole", *words))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, phase)
        with pytest.raises(InterruptedRunError):
            train(small_config("name=cut", *words))
    resumed = train(small_config("name=cut", *words), resume=True)
    assert_same_run(whole, resumed, 5)
    for name in ("0.5", "0.9"):
        path = f"student/averages/{name}/unet/diffusion_pytorch_model.safetensors"
        assert (whole / path).read_bytes() == (resumed / path).read_bytes()


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_is_passed_over_with_a_warning(
    finished: Path, small_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("name=cut", *TRACED)
    folder = train(small_config("trainer.max_steps=8", *words))
    for newest in (folder / "checkpoints").glob("*-step=8.ckpt"):
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    with caplog.at_level(logging.INFO):
        resumed = train(small_config("trainer.max_steps=10", *words), resume=True)
    assert "newest-step=8.ckpt is damaged" in caplog.text
    assert "newest-step=6.ckpt, step 6" in caplog.text
    assert_same_run(finished, resumed, 10)


def test_another_run_is_never_overwritten(short: Path, small_config: MakeConfig) -> None:
    first = short
    kept = (first / "metrics.csv").read_bytes()
    second = train(small_config("trainer.max_steps=2"))
    assert second.name == "dmd_carv-2"
    assert (first / "metrics.csv").read_bytes() == kept
    resumed = train(small_config("trainer.max_steps=4", "name=dmd_carv-2"), resume=True)
    assert resumed == second
    assert read_metrics(second / "metrics.csv")[-1]["step"] == 4
    assert (first / "metrics.csv").read_bytes() == kept


def test_resume_refuses_what_cannot_be_resumed(short: Path, small_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="there is no run"):
        train(small_config("name=none"), resume=True)
    folder = short
    with pytest.raises(UserError, match=r"estimator\.draws was 2 .* now 3"):
        train(small_config("estimator.draws=3"), resume=True)
    kept = [p for p in (folder / "checkpoints").glob("*.ckpt") if not p.is_symlink()]
    for path in kept:
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="holds no checkpoint that can be read"):
        train(small_config("trainer.max_steps=4"), resume=True)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.unlink()
    with pytest.raises(UserError, match=r"ended before its first checkpoint \(checkpoint.every: 2\)"):
        train(small_config("trainer.max_steps=4"), resume=True)


@pytest.mark.parametrize("network", ["fake", "student"])
def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """Poisoned at update 5: the message names step and network; the newest checkpoint is update 4's."""
    update = getattr(DMDModule, f"{network}_update")

    def poisoned(self: DMDModule, *arguments: object) -> torch.Tensor:
        value = update(self, *arguments)
        return value * float("nan") if self.global_step >= (4 if network == "fake" else 5) else value

    monkeypatch.setattr(DMDModule, f"{network}_update", poisoned)
    config = small_config()
    with pytest.raises(UserError, match=f"non-finite loss of the {network} network at step 5"):
        train(config)
    checkpoints = Path(config.folder, config.name, "checkpoints")
    assert newest_checkpoint(checkpoints) == (checkpoints / "newest-step=4.ckpt", 4)


def test_non_finite_weights_stop_the_run(small_config: MakeConfig) -> None:
    """A learning rate that overflows at once is caught before a checkpoint is written."""
    config = small_config("dmd.student_lr=1e38")
    with pytest.raises(UserError, match=r"non-finite (weights after|loss of the \w+ network at) step 1"):
        train(config)
    assert not list(Path(config.folder, config.name, "checkpoints").glob("*.ckpt"))


def test_bad_teachers_and_data_leave_no_folder(small_config: MakeConfig, tmp_path: Path) -> None:
    other = tmp_path / "rgb"
    UNet2DModel(sample_size=16, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",), norm_num_groups=4).save_pretrained(other)  # fmt: skip
    (other / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    for path, message in (
        ("nowhere", "nowhere is not a folder"),
        (str(other), "makes 3×16×16 images, but data digits"),
    ):
        with pytest.raises(UserError, match=message):
            train(small_config(f"teacher.path={path}"))
    with pytest.raises(UserError, match=r"features|weights|folder"):
        train(small_config("fid.every=2", f"fid.weights={tmp_path}/none"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="there is no CUDA device here"):
            train(small_config("trainer.accelerator=cuda"))
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(short: Path, small_config: MakeConfig) -> None:
    """No file may grow beyond 10 MB once the run has a checkpoint (of 20 MB): what it had stays whole."""
    folder = short
    with largest_file(10_000_000), pytest.raises(UserError, match="checkpoint could not be written"):
        train(small_config("trainer.max_steps=4"), resume=True)
    checkpoint = folder / "checkpoints/newest-step=2.ckpt"
    assert newest_checkpoint(folder / "checkpoints") == (checkpoint, 2)
    train(small_config("trainer.max_steps=6"), resume=True)
    assert read_metrics(folder / "metrics.csv")[-1]["step"] == 6


def test_resume_refuses_another_number_of_processes(short: Path, small_config: MakeConfig) -> None:
    environment = json.loads((short / "environment.json").read_text())
    (short / "environment.json").write_text(json.dumps(environment | {"shares": 8}))
    with pytest.raises(UserError, match=r"was started with 8 shares of a batch .*, now 1"):
        train(small_config("trainer.max_steps=4"), resume=True)


def test_a_run_whose_rate_decays_keeps_its_length(small_config: MakeConfig) -> None:
    train(small_config("trainer.max_steps=2", "dmd.lr_decay=student"))
    with pytest.raises(UserError, match=r"trainer\.max_steps was 2 .* now 4"):
        train(small_config("trainer.max_steps=4", "dmd.lr_decay=student"), resume=True)


@pytest.mark.slow
def test_the_non_uniform_proposal_trains(small_config: MakeConfig) -> None:
    """A run with importance weights, Sobol points and chunks gives finite, different weights."""
    words = (
        "estimator.proposal=weights",
        "estimator.weights=[1,4,2,1]",
        "estimator.strategy=sobol",
        "estimator.chunk=3",
    )
    a, b = train(small_config("name=a")), train(small_config("name=b", *words))
    student = "objective.student.network.model.conv_in.weight"
    assert networks(b, 6)[student].isfinite().all()
    assert not torch.equal(networks(a, 6)[student], networks(b, 6)[student])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("[1,-1]", "weights must be non-negative, found -1"),
        ("[0,0]", "weights must not all be zero"),
        ("[1,nan]", r"\[1.0, nan\] is not finite"),
    ],
)
def test_weights_that_are_no_density_are_refused(
    small_config: MakeConfig, tmp_path: Path, weights: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"estimator\.weights: {message}"):
        train(small_config("estimator.proposal=weights", f"estimator.weights={weights}"))
    assert not (tmp_path / "runs").exists()


def test_a_run_without_a_checkpoint_cannot_be_accounted_for(short: Path) -> None:
    for path in (short / "checkpoints").glob("*.ckpt"):
        path.unlink()
    task, config = open_run(short)
    assert task.gradient is not None
    with pytest.raises(UserError, match="checkpoints holds no checkpoint to measure"):
        task.gradient(config, short, "cpu", None)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 75, marks=pytest.mark.slow),
    ],
)
def test_a_signal_keeps_the_present_update(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """To a real `python train.py`, its output in a file: lines of progress, then how to go on."""
    words = [*SMALL, "trainer.max_steps=400", "checkpoint.every=5", "fid.every=0", "variance.every=0"]
    command = [sys.executable, "train.py", "--config", "configs/dmd_carv.yaml", *words, f"folder={tmp_path}"]
    process = start([*command, "name=cut"], COLUMNS="200")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut/checkpoints").glob("newest-step=[2-9]5.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == status
    kept = newest_checkpoint(tmp_path / "cut/checkpoints")
    assert kept is not None
    assert f"update {kept[1]} is kept, --resume goes on from it" in said
    assert "update 20 of 400" in said
    assert "Traceback" not in said


def test_resume_after_kill_9_is_exact_to_the_bit(small_config: MakeConfig, tmp_path: Path) -> None:
    """SIGKILL of a real `python train.py` at a random moment after its first checkpoint; then --resume."""
    words = [*SMALL, "trainer.max_steps=30", "checkpoint.every=5", "fid.every=10", "fid.images=64"]
    command = [sys.executable, "train.py", "--config", "configs/dmd_carv.yaml", *words, f"folder={tmp_path}"]
    process = start([*command, "name=killed"])
    checkpoints = tmp_path / "killed/checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("newest-*.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.Random(1).uniform(0, 1))
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    ((status, output),) = finish([start([*command, "name=killed", "--resume"])])
    assert status == 0, output
    config = small_config("name=whole", *words[len(SMALL) :])
    assert_same_run(train(config), tmp_path / "killed", 30)


def terminate(*_: object) -> None:
    """In the place of a callback's method: a scheduler's signal while it is at work."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_after_the_last_update_ends_what_comes_after_it(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film or a mesh may take longer than a scheduler waits; a requeued run makes it."""
    monkeypatch.setattr(Export, "on_train_end", terminate)
    config = small_config("trainer.max_steps=2", "checkpoint.every=2")
    with pytest.raises(
        StoppedError, match="SIGTERM received after the last update, which is kept"
    ) as stopped:
        train(config)
    assert stopped.value.status == 75
    monkeypatch.undo()
    folder = train(config, requeue=True)
    assert product_step(folder) == 2
    assert (folder / "student/model_index.json").is_file()


@pytest.mark.slow
def test_a_signal_before_the_first_update_is_not_lost(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while the first FID is measured: the first update is made, kept, and the run leaves."""
    monkeypatch.setattr(FIDTrace, "on_train_start", terminate)
    config = small_config("fid.every=6", "fid.images=16")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="SIGTERM received; update 1 is kept"):
        train(config)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    folder = train(config, requeue=True)
    assert read_metrics(folder / "metrics.csv")[-1]["step"] == 6


@pytest.mark.slow
def test_requeue_starts_where_there_is_nothing_and_leaves_others_alone(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes an empty folder or an attempt of its own without a checkpoint; not another run's folder, nor
    one whose checkpoints the disk does not give at present: those are kept."""
    config = small_config("trainer.max_steps=2")
    folder = Path(config.folder, config.name)
    folder.mkdir(parents=True)
    assert train(config, requeue=True) == folder
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    assert train(config, requeue=True) == folder
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    (folder / "environment.json").unlink()  # killed between its configuration and this file
    assert train(config, requeue=True) == folder
    kept = sorted((folder / "checkpoints").iterdir())

    def away(*args: object, **options: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.__init__", away)
        with pytest.raises(UserError, match=r"cannot be read .*nothing was changed"):
            train(config, requeue=True)
    assert sorted((folder / "checkpoints").iterdir()) == kept
    for path in kept:
        path.unlink()
    with pytest.raises(UserError, match=r"dmd\.ema was 0\.98"):
        train(small_config("dmd.ema=0.5"), requeue=True)
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"is no run's folder: it holds student and no config\.yaml"):
        train(config, requeue=True)
    assert (folder / "student").is_dir()
