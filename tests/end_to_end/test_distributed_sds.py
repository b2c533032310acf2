"""Two processes: text-to-3D is that of one process which works through both shares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.preparation import build_module
from tests.helpers.launch import launch_two
from tests.helpers.small import ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline

LEARNED = (
    "estimator.strategy=nested",
    "estimator.proposal=adaptive",
    "estimator.statistic=neyman",
    "estimator.bins=6",
    "estimator.refresh=1",
    "sds.coefficient=learned",
    "sds.t_max_end=0.5",
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("teacher"))


def words(teacher: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return (
        f"teacher.path={teacher}",
        f"folder={folder}",
        "sds.prompt=a red torus",
        "sds.renders_at_once=1",
        "camera.sampling=sobol",
        "estimator.upstream=2",
        "estimator.draws=3",
        "scene.size=8",
        "scene.resolution=8",
        "scene.samples=8",
        "trainer.max_steps=4",
        "trainer.log_every=1",
        "trainer.accelerator=cpu",
        "checkpoint.every=1",
        "clip.every=0",
        "preview.every=0",
        "export.frames=8",
        "export.size=16",
        "export.mesh=8",
        *LEARNED,
        *more,
    )


def train_on_two(teacher: Path, folder: Path, *more: str) -> None:
    launch_two("--config", "configs/sds_carv.yaml", *words(teacher, folder, *more))


class RankZero(SDSModule):
    """One of two ranks, without the other."""

    world_size, global_rank = 2, 0


class RankOne(SDSModule):
    world_size, global_rank = 2, 1


def both_shares(config: SDSConfig) -> list[SDSModule]:
    """The module as ranks 0 and 1 see it, with one field and with what is learned in common."""
    ranks = [build_module(config, "cpu") for _ in range(2)]
    for module, kind in zip(ranks, (RankZero, RankOne), strict=True):
        module.__class__ = kind
    objective = ranks[1].objective = ranks[0].objective
    ranks[1].statistics = ranks[0].statistics
    assert objective.levels.adaptive is not None
    assert objective.coefficient is not None
    return ranks


@pytest.mark.ddp
def test_two_processes_make_the_field_of_one_that_works_through_both_shares(
    teacher: Path, tmp_path: Path
) -> None:
    """After four steps of two renders in turn on each rank the fields agree to 1e-6, and what is learned too;
    strata are dealt over both ranks, timesteps are annealed. In float64, as Adam's first steps are of one
    length whatever the gradient: where parts cancel, float32's rounding would turn them."""
    train_on_two(teacher, tmp_path, "trainer.precision=64-true")
    run = tmp_path / "sds_carv"
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert [r["step"] for r in read_metrics(run / "metrics.csv")] == [1, 2, 3, 4]

    config = load_config(ROOT / "configs/sds_carv.yaml", words(teacher, tmp_path))
    assert isinstance(config, SDSConfig)
    ranks = both_shares(config)
    for module in ranks:
        module.double()
    start = {name: value.clone() for name, value in ranks[0].scene.state_dict().items()}
    (optimizer,) = ranks[0].configure_optimizers()
    for step in range(4):
        optimizer.zero_grad()
        for part in (part for module in ranks for part in module.share(step)):
            (part.loss / 2).backward()
        optimizer.step()
        ranks[0].statistics.commit(step, lambda rows: rows)
    found = torch.load(run / "checkpoints/newest-step=4.ckpt", weights_only=True)
    for name, value in ranks[0].scene.state_dict().items():
        assert (value - start[name]).abs().max() > 1e-2
        torch.testing.assert_close(found["state_dict"][f"objective.scene.{name}"], value, rtol=0, atol=1e-6)
    expected = {"state_dict": ranks[0].state_dict()}
    ranks[0].on_save_checkpoint(expected)
    # 4 samples, of each the two pairs of neighbours at both their ends; 12 draws
    for name in ("adaptive", "coefficient"):
        assert found[name]["observed"] == 3
        torch.testing.assert_close(found[name]["sums"], expected[name]["sums"], rtol=1e-5, atol=1e-5)
    assert found["adaptive"]["sums"]["weight"].sum() == pytest.approx(16 * sum(0.98**i for i in range(4)))


@pytest.mark.slow
@pytest.mark.ddp
def test_lights_and_cells_of_two_processes_are_those_of_one(teacher: Path, tmp_path: Path) -> None:
    """As above: lit renders of two sizes over a learned background, in cells that both look for alike; some
    ranks have a lit render at a step, or a background, and some have none."""
    more = (
        "scene.shading.lambertian=0.3",
        "scene.shading.textureless=0.3",
        "sds.orientation=3",
        "sds.colour_smoothness=0",  # after steps of one length neighbours cancel, and Adam turns the rounding
        "scene.background=learned",
        "sds.background_lr=0.01",
        "scene.size=[0,4,2,8]",
        "scene.upsample=true",
        "scene.occupancy.resolution=6",
        "scene.occupancy.every=2",
        "scene.occupancy.threshold=5",
    )
    train_on_two(teacher, tmp_path, "trainer.precision=64-true", *more)
    config = load_config(ROOT / "configs/sds_carv.yaml", words(teacher, tmp_path, *more))
    assert isinstance(config, SDSConfig)
    ranks = both_shares(config)
    for module in ranks:
        module.double()
    objective = ranks[0].objective
    (optimizer,) = ranks[0].configure_optimizers()
    for step in range(4):
        objective.update_occupancy(step, ranks[1].streams(1, "occupancy", step)[1])
        optimizer.zero_grad()
        for part in (part for module in ranks for part in module.share(step)):
            (part.loss / 2).backward()
        optimizer.step()
        ranks[0].statistics.commit(step, lambda rows: rows)
    checkpoint = tmp_path / "sds_carv/checkpoints/newest-step=4.ckpt"
    found, state = torch.load(checkpoint, weights_only=True)["state_dict"], ranks[0].state_dict()
    names = [n for n in found if n.startswith(("objective.background.", "objective.occupancy."))]
    assert len(names) == 8
    for name in found:
        torch.testing.assert_close(found[name], state[name], rtol=0, atol=1e-6)
    assert 0 < float(found["objective.occupancy.occupied"].double().mean()) < 1


@pytest.mark.slow
@pytest.mark.ddp
def test_the_fake_score_of_two_processes_is_that_of_one(teacher: Path, tmp_path: Path) -> None:
    """As above, by VSD: the adapters agree to 1e-5 after four steps of both."""
    vsd = ("sds.objective=vsd", "sds.vsd.lr=0.01", "sds.vsd.strategy=nested", "sds.vsd.draws=2")
    train_on_two(teacher, tmp_path, "trainer.precision=64-true", *vsd)
    run = tmp_path / "sds_carv"
    config = load_config(ROOT / "configs/sds_carv.yaml", words(teacher, tmp_path, *vsd))
    assert isinstance(config, SDSConfig)
    ranks = both_shares(config)
    for module in ranks:
        module.double()
    objective = ranks[0].objective
    assert objective.fake is not None
    scene, fake = ranks[0].configure_optimizers()
    vector = ranks[0].fake_vector
    assert vector is not None
    vector.world_size = 1
    for step in range(4):
        scene.zero_grad()
        for part in (part for module in ranks for part in module.share(step)):
            (part.loss / 2).backward()
            for loss in part.fake:
                (loss / 2).backward()
        scene.step()
        vector.descend(fake)
        ranks[0].statistics.commit(step, lambda rows: rows)
    found = torch.load(run / "checkpoints/newest-step=4.ckpt", weights_only=True)["state_dict"]
    state = ranks[0].state_dict()
    moved = 0.0
    for name in (name for name in found if name.startswith("objective.fake.")):
        torch.testing.assert_close(found[name], state[name], rtol=0, atol=1e-5)
        moved = max(moved, float(found[name].abs().max()) if "lora_B" in name else 0.0)
    assert moved > 1e-3
    for name in (name for name in found if name.startswith("objective.scene.")):
        torch.testing.assert_close(found[name], state[name], rtol=0, atol=1e-5)


@pytest.mark.ddp
@pytest.mark.parametrize("objective", [pytest.param("sds", marks=pytest.mark.slow), "vsd"])
def test_resume_under_two_processes_is_exact_to_the_bit(
    teacher: Path, tmp_path: Path, objective: str
) -> None:
    """The checkpoint is rank 0's: what rank 1 learned must have been the same."""
    runs = [tmp_path / name / "sds_carv" for name in ("whole", "cut")]
    train_on_two(teacher, runs[0].parent, f"sds.objective={objective}")
    shutil.copytree(*runs)
    for path in (runs[1] / "checkpoints").iterdir():
        if path.name != "newest-step=3.ckpt":
            path.unlink()
    (runs[1] / "object/scene.safetensors").unlink()
    train_on_two(teacher, runs[1].parent, f"sds.objective={objective}", "--resume")
    whole, cut = (torch.load(run / "checkpoints/newest-step=4.ckpt", weights_only=True) for run in runs)
    assert whole["adaptive"].pop("statistic") == cut["adaptive"].pop("statistic") == "neyman"
    for part in ("state_dict", "optimizer_states", "adaptive", "coefficient"):
        torch.testing.assert_close(whole[part], cut[part], rtol=0, atol=0)
    objects = [(run / "object/scene.safetensors").read_bytes() for run in runs]
    assert objects[0] == objects[1]


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_change_their_gaussians_alike(teacher: Path, tmp_path: Path) -> None:
    """A run that is cut before or at a change of the count ends the same, though both processes then go on
    from what rank 0 has kept: rank 1 had the same Gaussians, moments and sums."""
    more = (
        "scene.kind=gaussians",
        "scene.gaussians.count=40",
        "scene.gaussians.densify.every=2",
        "scene.gaussians.densify.start=1",
        "scene.gaussians.densify.gradient=1e-6",
        "scene.gaussians.densify.most=90",
        "checkpoint.keep_newest=9",
    )
    runs = [tmp_path / name / "sds_carv" for name in ("whole", "cut")]
    train_on_two(teacher, runs[0].parent, *more)
    rows = read_metrics(runs[0] / "metrics.csv")
    assert 40 == rows[0]["scene/gaussians"] < rows[1]["scene/gaussians"] < rows[3]["scene/gaussians"] <= 90
    for at in (2, 3):
        shutil.rmtree(runs[1], ignore_errors=True)
        shutil.copytree(*runs)
        for path in (runs[1] / "checkpoints").iterdir():
            if path.name != f"newest-step={at}.ckpt":
                path.unlink()
        train_on_two(teacher, runs[1].parent, *more, "--resume")
        whole, cut = (torch.load(run / "checkpoints/newest-step=4.ckpt", weights_only=True) for run in runs)
        for part in ("state_dict", "optimizer_states", "density_control"):
            torch.testing.assert_close(whole[part], cut[part], rtol=0, atol=0)
