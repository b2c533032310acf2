"""Sharded over two processes: the run is that of one process, and goes on with any number of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.attributed import tiny_teacher
from tests.helpers.launch import finish, launch_two, start, tasks_of_torchrun
from tests.helpers.runs import assert_same_run, networks
from tests.helpers.small import ROOT, SMALL

pytestmark = pytest.mark.ddp

CONFIG = "configs/dmd_carv.yaml"
FSDP = "trainer.sharding=fsdp"
GAN = ("scales=2", "student_weight=0.1", "fake_weight=1", "r1_weight=1")
WORDS = (
    *SMALL,
    *(f"dmd.gan.{word}" for word in GAN),
    "dmd.global_batch=16",
    "dmd.ema_beside=[0.5]",
    "dmd.clip_norm=20",
    "dmd.fake_clip_norm=1",
    "estimator.strategy=nested",
    "estimator.proposal=adaptive",
    "estimator.refresh=2",
    "trainer.precision=64-true",
    "trainer.max_steps=4",
    "checkpoint.every=1",
    "checkpoint.keep_newest=4",
    "variance.every=4",
    "variance.pairs=3",
    "fid.every=4",
    "fid.images=100",
)
PER_PROCESS = {"seconds", "loss/fake", "loss/discriminator", "student/direction_norm"}
"""Columns of metrics.csv that are of what the first process saw."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """With a teacher of some thousand weights."""
    teacher = tiny_teacher(tmp_path_factory.mktemp("teacher")).path
    return (*WORDS, f"teacher.path={teacher}")


@pytest.fixture(scope="module")
def one(words: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, which works through four shares of R = 4."""
    folder = tmp_path_factory.mktemp("one")
    return train(load_config(ROOT / CONFIG, [*words, f"folder={folder}"]))


@pytest.fixture(scope="module")
def two(words: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two processes with two shares each, sharded."""
    folder = tmp_path_factory.mktemp("two")
    launch_two("--config", CONFIG, *words, FSDP, f"folder={folder}")
    return folder / "dmd_carv"


def assert_same_weights(a: Path, b: Path, step: int, **bounds: float) -> None:
    left, right = networks(a, step), networks(b, step)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, msg=lambda m, name=name: f"{name}: {m}", **bounds)


@pytest.mark.slow
def test_the_first_gradients_are_those_of_one_process(one: Path, two: Path) -> None:
    """First moments after one update are (1 − β) times the gradients: 1e-10 of the greatest entry."""
    for i in range(2):
        moments = [
            torch.load(run / "checkpoints/newest-step=1.ckpt", weights_only=True)["optimizer_states"][i]
            for run in (one, two)
        ]
        expected, found = (m["state"][0]["exp_avg"] for m in moments)
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.slow
def test_updates_averages_and_moments_are_those_of_one_process(one: Path, two: Path) -> None:
    """Four updates with a discriminator, clipping, two averages and an adaptive proposal: checkpoints of the
    same tensors, equal to 1e-9."""
    for step in range(1, 5):
        assert_same_weights(one, two, step, rtol=0, atol=1e-9)
        a, b = (torch.load(r / f"checkpoints/newest-step={step}.ckpt", weights_only=True) for r in (one, two))
        assert a["state_dict"]["averages"].shape == b["state_dict"]["averages"].shape
        torch.testing.assert_close(a["adaptive"]["sums"], b["adaptive"]["sums"], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_what_is_measured_is_the_same(one: Path, two: Path) -> None:
    """Norms of gradients, clipped updates, variance with its intervals, FID, precision and recall."""
    rows = [read_metrics(run / "metrics.csv") for run in (one, two)]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    columns = {key for row in rows[0] for key in row} - PER_PROCESS
    assert {"student/grad_norm", "fake/clipped_updates", "variance/carv/total", "fid/fid"} <= columns
    for a, b in zip(*rows, strict=True):
        for key in columns & a.keys():
            assert b[key] == pytest.approx(a[key], rel=1e-7), key


@pytest.mark.slow
def test_the_student_is_the_same(one: Path, two: Path) -> None:
    """Both averages as plain folders, and the picture of the samples."""
    z, labels = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double(), torch.arange(4)
    for part in (".", "averages/0.5"):
        pictures: list[Tensor] = []
        for run in (one, two):
            network = load_teacher(run / "student" / part).denoiser.double()
            pictures.append(network(80 * z, torch.full((4,), 80.0, dtype=torch.float64), labels))
        torch.testing.assert_close(pictures[1], pictures[0], rtol=0, atol=1e-8)
    assert [p.name for p in sorted((one / "samples").iterdir())] == [
        p.name for p in sorted((two / "samples").iterdir())
    ]


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(
    words: tuple[str, ...], one: Path, two: Path, tmp_path: Path
) -> None:
    """Two sharded, one, two sharded, two whole: the last update is the uninterrupted run's, to 1e-9."""
    run, folder = tmp_path / "dmd_carv", f"folder={tmp_path}"
    shutil.copytree(two, run, symlinks=True)
    for later in run.glob("checkpoints/*-step=[234].ckpt"):
        later.unlink()
    alone = load_config(ROOT / CONFIG, [*words, folder, "trainer.max_steps=2"])
    train(alone, resume=True)
    launch_two("--config", CONFIG, *words, folder, FSDP, "trainer.max_steps=3", "--resume")
    launch_two("--config", CONFIG, *words, folder, "--resume")
    for step in range(1, 5):
        assert_same_weights(one, run, step, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_resume_with_as_many_processes_is_exact_to_the_bit(
    words: tuple[str, ...], two: Path, tmp_path: Path
) -> None:
    """A sharded run whose newest checkpoints were cut short goes on from the one before; float64."""
    run = tmp_path / "dmd_carv"
    shutil.copytree(two, run, symlinks=True)
    for path in run.glob("checkpoints/*-step=[34].ckpt"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    launch_two("--config", CONFIG, *words, FSDP, f"folder={tmp_path}", "--resume")
    assert_same_run(two, run, 4)


@pytest.mark.slow
def test_a_sharded_run_is_measured_and_exported_by_one_process(two: Path, tmp_path: Path) -> None:
    run = tmp_path / "dmd_carv"
    shutil.copytree(two, run, symlinks=True)
    weights = "student/unet/diffusion_pytorch_model.safetensors"
    expected = (run / weights).read_bytes()
    shutil.rmtree(run / "student")
    evaluate("export", run)
    assert (run / weights).read_bytes() == expected
    evaluate("variance", run, "--upstream", "2", "--draws", "1", "2", "--pairs", "3", "--samples", "3")
    assert (run / "figures").is_dir()


def evaluate(command: str, run: Path, *words: str) -> None:
    """`python evaluate.py …` on one process."""
    ((status, output),) = finish([start([sys.executable, "evaluate.py", command, "--run", str(run), *words])])
    assert status == 0, output


@pytest.mark.slow
def test_published_kinds_of_runs_are_the_same(tmp_path: Path) -> None:
    """The frozen teacher's features, an optimiser of the discriminator's own, one share each; float32: 1e-5
    after one update."""
    words = [*SMALL, "dmd.gan.features=teacher", "dmd.gan.optimiser=own", "dmd.gan.fake_weight=1"]
    words += ["dmd.gan.student_weight=0.1", "trainer.max_steps=1", "dmd.global_batch=8", "checkpoint.every=1"]
    alone = train(load_config(ROOT / CONFIG, [*words, f"folder={tmp_path}/one"]))
    launch_two("--config", CONFIG, *words, FSDP, f"folder={tmp_path}/two")
    a, b = (
        torch.load(run / "checkpoints/newest-step=1.ckpt", weights_only=True)["optimizer_states"]
        for run in (alone, tmp_path / "two/dmd_carv")
    )
    assert len(a) == len(b) == 3
    for left, right in zip(a, b, strict=True):
        expected = left["state"][0]["exp_avg"]
        bound = 1e-6 * expected.abs().max().item()
        torch.testing.assert_close(right["state"][0]["exp_avg"], expected, rtol=0, atol=bound)


PROMPTED = (
    f"teacher.path={ROOT}/checkpoints/shapes-teacher",
    "trainer.accelerator=cpu",
    "trainer.max_steps=1",
    "checkpoint.every=1",
    "estimator.upstream=2",
    "dmd.fake_batch=2",
    "dmd.global_batch=4",
    "dmd.ema_beside=[0.5]",
    "data.views=2",
    "fid.every=0",
)


LORA = ("dmd.adapters.kind=lora", "dmd.gradient_checkpointing=true")


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), LORA])
def test_a_text_student_is_the_same(words: tuple[str, ...], tmp_path: Path) -> None:
    """Whole, and by adapters over a base in shards with checkpointed blocks: moments after one update to 1e-5
    of the greatest, and the exported network; float32."""
    config = "configs/text_to_image/dmd_shapes.yaml"
    words = (*PROMPTED, *words)
    alone = train(load_config(ROOT / config, [*words, f"folder={tmp_path}/one"]))
    launch_two("--config", config, *words, FSDP, f"folder={tmp_path}/two")
    both = alone, tmp_path / "two/dmd_shapes"
    a, b = (torch.load(run / "checkpoints/newest-step=1.ckpt", weights_only=True) for run in both)
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for left, right in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        expected = left["state"][0]["exp_avg"]
        bound = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(right["state"][0]["exp_avg"], expected, rtol=0, atol=bound)
    for part in ("unet", "averages/0.5/unet"):
        files = [run / "student" / part / "diffusion_pytorch_model.safetensors" for run in both]
        one, two = map(load_file, files)
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_is_not_finite_stops_in_every_process(tmp_path: Path) -> None:
    """One line, from any of them, and no checkpoint of it."""
    words = (*SMALL, FSDP, "dmd.student_lr=1e30", "dmd.fake_lr=1e30", f"folder={tmp_path}")
    for status, output in finish(tasks_of_torchrun("train.py", "--config", CONFIG, *words)):
        assert status != 0
        assert "non-finite" in output
        assert "Traceback" not in output
    assert not list((tmp_path / "dmd_carv/checkpoints").glob("newest-step=6.ckpt"))


def test_one_process_is_too_few(small_config: Callable[..., Any], tmp_path: Path) -> None:
    """Said before a folder is made, with what it takes."""
    config: DMDConfig = small_config(FSDP, f"folder={tmp_path}")
    with pytest.raises(UserError, match=r"trainer\.sharding: fsdp needs at least 2 processes, found 1"):
        train(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ("dmd_carv", ["dmd.compile=true"], r"dmd\.compile: true does not go with trainer\.sharding: fsdp"),
        ("sds_carv", [], r"trainer\.sharding: fsdp is not for task sds \(but for dmd\)"),
        ("teacher_digits", [], r"trainer\.sharding: fsdp is not for task teacher"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(config: str, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(ROOT / f"configs/{config}.yaml", [FSDP, *words])
    with pytest.raises(
        UserError, match=r"trainer\.sharding: 'fsdp2' is not one of none, fsdp \(did you mean"
    ):
        load_config(ROOT / f"configs/{config}.yaml", ["trainer.sharding=fsdp2"])
