"""Two processes: the update is that of one process which works through both shares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Observer, carv_loss
from carv_distill.data.images import load_images
from carv_distill.distillation.building import accumulated_shares, build_module
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.objective import draw
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.engine.optimisation import NetworkParameters, ParameterVector
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from tests.helpers.launch import launch_two, launch_two_nodes, torchrun_two
from tests.helpers.runs import assert_same_run
from tests.helpers.small import ROOT, SMALL

WORDS = (
    "trainer.max_steps=2",
    "dmd.fake_updates_per_student=1",
    "estimator.strategy=global",
    "estimator.draws=1",
)
SIX = (
    "trainer.max_steps=6",
    "trainer.precision=64-true",
    "dmd.global_batch=8",
    "estimator.strategy=nested",
    "estimator.proposal=adaptive",
    "estimator.refresh=3",
    "checkpoint.every=1",
    "checkpoint.keep_newest=6",
)


def shares(config: DMDConfig) -> list[DMDModule]:
    """The module as ranks 0 and 1 of two see it, with the networks of rank 0 in both."""
    ranks = []
    for rank in range(2):
        module = build_module(config, load_images("digits"))
        assert isinstance(module, DMDModule)
        module.__class__ = type("Share", (DMDModule,), {"global_rank": rank, "world_size": 2})
        ranks.append(module)
    for name in ("student", "fake"):
        setattr(ranks[1].objective, name, getattr(ranks[0].objective, name))
    return ranks


def descend(optimizer: torch.optim.Optimizer, vector: NetworkParameters, losses: list[Tensor]) -> None:
    torch.stack(losses).mean().backward()
    assert isinstance(vector, ParameterVector)
    vector.world_size = 1  # the losses of both ranks are here
    vector.collect_gradient()
    optimizer.step()


def fake_loss(module: DMDModule, step: int) -> Tensor:
    """Of one rank's share of the first fake-score update of a step."""
    (share,) = module.shares
    samples = module.objective.student_samples(module.streams(share.index, step, "samples", 0)[0])
    return module.objective.fake_loss(share, samples, *module.streams(share.index, step, "fake", 0))


def student_loss(
    module: DMDModule, step: int, sampler: NoiseLevelSampler, observe: Observer | None = None
) -> Tensor:
    """Of one rank's share of a student update."""
    (share,), e = module.shares, module.estimator
    own, shared = module.streams(share.index, step, "student")
    upstream = module.objective.pipeline(share, shared)(e.upstream, own)
    drawn = draw(sampler, e.draws, share, upstream.x, own, shared)
    return carv_loss(upstream, drawn, own, None, observe)[0]


def train_on_two(folder: Path, *words: str) -> None:
    """A small distillation on two processes, with runs under a folder."""
    launch_two("--config", "configs/dmd_carv.yaml", *SMALL, *words, f"folder={folder}")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_update_as_one_that_works_through_both_shares(
    small_config: Callable[..., DMDConfig], tmp_path: Path
) -> None:
    """Weights after two updates agree to 1e-6; the strata of `global` are dealt over both ranks."""
    train_on_two(tmp_path / "runs", *WORDS)
    run = tmp_path / "runs/dmd_carv"
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert [r["step"] for r in read_metrics(run / "metrics.csv")] == [1, 2]

    ranks = shares(small_config(*WORDS))
    student, fake = ranks[0].configure_optimizers()
    for step in range(2):
        descend(fake, ranks[0].fake_vectors[0], [fake_loss(m, step) for m in ranks])
        losses = [student_loss(m, step, m.estimator.sampler) for m in ranks]
        descend(student, ranks[0].student_vector, losses)
    state = torch.load(run / "checkpoints/newest-step=2.ckpt", weights_only=True)["state_dict"]
    for name in ("student", "fake"):
        for key, value in getattr(ranks[0].objective, name).state_dict().items():
            torch.testing.assert_close(state[f"objective.{name}.{key}"], value, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_learn_one_adaptive_proposal(
    small_config: Callable[..., DMDConfig], tmp_path: Path
) -> None:
    """What two ranks saw in an update is what one process saw of both shares, rank by rank; 1e-6."""
    adaptive = ("estimator.proposal=adaptive", "estimator.statistic=neyman")
    words = (*WORDS, *adaptive, "estimator.draws=3", "estimator.bins=4", "estimator.refresh=1")
    train_on_two(tmp_path / "runs", *words)
    path = tmp_path / "runs/dmd_carv/checkpoints/newest-step=2.ckpt"
    found = torch.load(path, weights_only=True)["adaptive"]
    # 8 samples, of each the two pairs of neighbours at both their ends
    assert found["sums"]["weight"].sum() == pytest.approx(32 * (1 + 0.98))
    ranks = shares(small_config(*words))
    expected = ranks[0].estimator.adaptive
    assert expected is not None
    for m in ranks:
        m.objective.fake.load_state_dict(ranks[0].objective.fake.state_dict())
    student, fake = ranks[0].configure_optimizers()
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(2):
        descend(fake, ranks[0].fake_vectors[0], [fake_loss(m, step) for m in ranks])
        sampler = ranks[0].estimator.sampler_at(step)
        seen.clear()

        def see(u: Tensor, residual: Tensor, index: Tensor, seen: list[Any] = seen) -> None:
            seen.append((u, residual, index + 100 * len(seen)))  # numbers of their own for each share

        losses = [student_loss(m, step, sampler, see) for m in ranks]
        expected.observe(step, *(torch.cat(parts) for parts in zip(*seen, strict=True)))
        descend(student, ranks[0].student_vector, losses)
    torch.testing.assert_close(found["sums"], expected.state_dict()["sums"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.ddp
def test_resume_under_two_processes_is_exact_to_the_bit(tmp_path: Path) -> None:
    """A run whose newest checkpoint was cut short goes on from the one before, on both ranks."""
    traced = (
        *("variance.every=2", "variance.pairs=3", "fid.every=2", "fid.images=32"),
        *("checkpoint.every=1", "preview.every=2"),
    )
    train_on_two(tmp_path, "name=whole", "trainer.max_steps=3", *traced)
    train_on_two(tmp_path, "name=cut", "trainer.max_steps=2", *traced)
    for newest in (tmp_path / "cut/checkpoints").glob("*-step=2.ckpt"):
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    train_on_two(tmp_path, "name=cut", "trainer.max_steps=3", *traced, "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "cut", 3)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of six updates of one process that works through two shares of R = 4."""
    config = load_config(
        ROOT / "configs/dmd_carv.yaml", [*SMALL, *SIX, f"folder={tmp_path_factory.mktemp('one')}"]
    )
    return train(config) / "checkpoints"


@pytest.mark.ddp
@pytest.mark.parametrize("launch", [torchrun_two, pytest.param(launch_two_nodes, marks=pytest.mark.slow)])
def test_two_processes_make_the_updates_of_one_that_accumulates(
    launch: Callable[..., None], accumulated: Path, tmp_path: Path
) -> None:
    """2 × R = 4 against 1 × 2 shares of R = 4, in float64: weights, averages and Adam's moments, that
    hold every gradient, agree to 1e-8 after each of six updates. Two processes on one node, or on two nodes;
    levels are dealt over both shares, and an adaptive proposal learns from both."""
    launch("--config", "configs/dmd_carv.yaml", *SMALL, *SIX, f"folder={tmp_path}")
    for step in range(1, 7):
        one, two = (
            torch.load(folder / f"newest-step={step}.ckpt", weights_only=True)
            for folder in (accumulated, tmp_path / "dmd_carv/checkpoints")
        )
        for part in ("state_dict", "optimizer_states"):
            torch.testing.assert_close(one[part], two[part], rtol=0, atol=1e-8)
        torch.testing.assert_close(one["adaptive"]["sums"], two["adaptive"]["sums"], rtol=1e-9, atol=1e-9)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_make_the_updates_of_a_published_kind_of_run(tmp_path: Path) -> None:
    """As above, with the teacher's features, an optimiser of the discriminator's own and three averages."""
    gan = ("features=teacher", "scales=2", "optimiser=own", "student_weight=0.1", "fake_weight=1")
    words = [
        *SMALL,
        *SIX,
        *(f"dmd.gan.{word}" for word in gan),
        "dmd.fake_loss=x0",
        "dmd.ema_beside=[0.5,0.9]",
    ]
    words += ["trainer.max_steps=3", "dmd.fake_clip_norm=1"]
    one = train(load_config(ROOT / "configs/dmd_carv.yaml", [*words, f"folder={tmp_path}/one"]))
    launch_two("--config", "configs/dmd_carv.yaml", *words, f"folder={tmp_path}/two")
    for step in range(1, 4):
        a, b = (
            torch.load(run / f"checkpoints/newest-step={step}.ckpt", weights_only=True)
            for run in (one, tmp_path / "two/dmd_carv")
        )
        assert len(a["optimizer_states"]) == 3
        for part in ("state_dict", "optimizer_states"):
            torch.testing.assert_close(a[part], b[part], rtol=0, atol=1e-8)


def test_a_batch_that_the_processes_do_not_divide_is_refused(small_config: Callable[..., DMDConfig]) -> None:
    config = small_config("dmd.global_batch=24")
    assert [accumulated_shares(config, n) for n in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UserError, match=r"dmd\.global_batch: 24 is not a multiple of 20.* 4 × 5 processes"):
        accumulated_shares(config, 5)


@pytest.mark.slow
@pytest.mark.ddp
def test_a_run_goes_on_with_another_number_of_processes(accumulated: Path, tmp_path: Path) -> None:
    """Started by one process that accumulates two shares, resumed by two with one each."""
    run = tmp_path / "dmd_carv"
    shutil.copytree(accumulated.parent, run, symlinks=True)
    for step in range(4, 7):
        (run / f"checkpoints/newest-step={step}.ckpt").unlink()
    launch_two("--config", "configs/dmd_carv.yaml", *SMALL, *SIX, f"folder={tmp_path}", "--resume")
    one, two = (
        torch.load(folder / "newest-step=6.ckpt", weights_only=True)["state_dict"]
        for folder in (accumulated, run / "checkpoints")
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
