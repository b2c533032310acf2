"""A run that starts from another run's student and fake score."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from carv_distill.data.images import load_images
from carv_distill.digests import content_digest
from carv_distill.distillation.building import build_module
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.start import require_same_base, start_from
from carv_distill.engine.environment import LAYOUT
from carv_distill.errors import UserError
from carv_distill.files import write_json
from carv_distill.tasks import load_config, train
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, save_teacher
from tests.helpers.tiny_unet import tiny_unet

MakeConfig = Callable[..., DMDConfig]
Weights = dict[str, torch.Tensor]


def weights(run: Path, step: int) -> Weights:
    state: Weights = torch.load(run / f"checkpoints/newest-step={step}.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates, with checkpoints of steps 2 and 4."""
    from tests.helpers.small import ROOT, SMALL

    folder = tmp_path_factory.mktemp("first")
    return train(
        load_config(ROOT / "configs/dmd_carv.yaml", [*SMALL, f"folder={folder}", "trainer.max_steps=4"])
    )


@pytest.mark.slow
def test_the_second_phase_starts_where_the_first_ended(first: Path, small_config: MakeConfig) -> None:
    """At rates of nearly nothing student and fake score stay what they were; averages are the student, and
    not what the first run's average was. A discriminator and further averages may come in."""
    gan = ("dmd.gan.student_weight=0.1", "dmd.gan.fake_weight=0.1", "dmd.ema_beside=[0.5]")
    still = ("dmd.student_lr=1e-30", "dmd.fake_lr=1e-30", "trainer.max_steps=1", "checkpoint.every=1")
    run = train(small_config("name=second", f"dmd.start={first}", *gan, *still))
    before, after = weights(first, 4), weights(run, 1)
    for key, value in before.items():
        if key.startswith(("objective.student.", "objective.fake.")):
            assert torch.equal(after[key], value), key
            average = key.replace("student.", "student_ema.")
            assert torch.equal(after[average], after[average.replace("student_ema.", "student.")])
    key = next(k for k in before if k.startswith("objective.student_ema."))
    assert not torch.equal(before[key], after[key])
    student = torch.cat([after[f"objective.student.{n}"].flatten() for n in names(small_config)])
    torch.testing.assert_close(after["averages"][0], student, rtol=0, atol=1e-6)


def names(small_config: MakeConfig) -> list[str]:
    module = build_module(small_config(), load_images("digits"))
    return [name for name, _ in module.objective.student.named_parameters()]


@pytest.mark.slow
def test_one_of_its_checkpoints_may_be_named(first: Path, small_config: MakeConfig) -> None:
    found = {}
    for place, step in ((first / "checkpoints/newest-step=2.ckpt", 2), (first, 4)):
        module = build_module(small_config(), load_images("digits"))
        start_from(module, str(place))
        key = "objective.fake.network.model.conv_in.weight"
        found[step] = module.state_dict()[key]
        assert torch.equal(found[step], weights(first, step)[key])
    assert not torch.equal(found[2], found[4])


@pytest.mark.slow
def test_a_run_that_started_from_another_resumes_to_the_bit(first: Path, small_config: MakeConfig) -> None:
    words = ("name=second", f"dmd.start={first}", "dmd.ema_beside=[0.9,0.5]")
    at_once = weights(train(small_config(*words, "trainer.max_steps=4")), 4)
    train(small_config(*words, "trainer.max_steps=2", "name=third"))
    # by then the first run need not be there any more
    words = (*(word for word in words if "start" not in word), "dmd.start=/gone", "name=third")
    resumed = weights(train(small_config(*words, "trainer.max_steps=4"), resume=True), 4)
    assert at_once.keys() == resumed.keys()
    assert all(torch.equal(at_once[key], resumed[key]) for key in at_once)


def test_a_run_that_is_not_finished_is_refused(first: Path, small_config: MakeConfig, tmp_path: Path) -> None:
    """Its folder; a checkpoint of it may be named, as the message says."""
    cut = tmp_path / "cut"
    shutil.copytree(first, cut, symlinks=True)
    (cut / "checkpoints/newest-step=4.ckpt").unlink()
    module = build_module(small_config(), load_images("digits"))
    with pytest.raises(UserError, match=r"has made 2 of its 4 updates; finish it \(--resume\)") as error:
        start_from(module, str(cut))
    start_from(module, str(error.value).rpartition(" as ")[2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path, state: path.write_bytes(b"PK no zip"), "is no checkpoint that can be read"),
        (lambda path, state: torch.save({"weights": state}, path), "is no checkpoint that can be read"),
        (
            lambda path, state: torch.save({"state_dict": {}}, path),
            "is not a distillation's: it has no objective",
        ),
        (
            lambda path, state: torch.save(
                {"state_dict": rid(state, "student.network.model.conv_in.bias")}, path
            ),
            r"has another network, first at objective\.student\.network\.model\.conv_in\.bias",
        ),
        (
            lambda path, state: torch.save({"state_dict": broken(state)}, path),
            r"has a value in objective\.fake\..* that is not finite",
        ),
    ],
)
def test_what_cannot_be_started_from(
    first: Path,
    small_config: MakeConfig,
    tmp_path: Path,
    damage: Callable[[Path, Weights], object],
    said: str,
) -> None:
    path = tmp_path / "checkpoint.ckpt"
    damage(path, weights(first, 4))
    with pytest.raises(UserError, match=said) as error:
        start_from(build_module(small_config(), load_images("digits")), str(path))
    assert str(error.value).startswith(f"dmd.start: {path}")
    assert "\n" not in str(error.value)


def rid(state: Weights, name: str) -> Weights:
    return {key: value for key, value in state.items() if key != f"objective.{name}"}


def broken(state: Weights) -> Weights:
    key = next(k for k in state if k.startswith("objective.fake."))
    return state | {key: torch.full_like(state[key], torch.nan)}


def test_a_folder_without_checkpoints_and_another_teacher(
    first: Path, small_config: MakeConfig, tmp_path: Path
) -> None:
    """A student's folder lacks the fake score; a place that is not there is found before torch loads."""
    module: DMDModule = build_module(small_config(), load_images("digits"))
    with pytest.raises(UserError, match=r"holds no checkpoint that can be read.*lacks the fake score"):
        start_from(module, str(first / "student"))
    with pytest.raises(UserError, match=r"dmd\.start: nowhere is not a file or folder"):
        complete(small_config, "dmd.start=nowhere")
    unet = tiny_unet(labels=11)
    save_teacher(tmp_path / "teacher", unet, edm_scheduler_config(EDMSchedule(), 0.5), "")
    other = build_module(small_config(f"teacher.path={tmp_path}/teacher"), load_images("digits"))
    with pytest.raises(UserError, match=r"(has another network|this teacher's is \[)"):
        start_from(other, str(first))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 32}, r"with dmd\.adapters\.alpha: 32, here it is 16; give dmd\.adapters\.alpha=32$"),
        ({"digest": "another"}, r"lie over another teacher than teacher\.path: .*shapes-teacher"),
        ({}, ""),
        ({"alpha": 16}, ""),  # the rank, as without
        ({"digest": None, "alpha": None}, ""),
    ],
)
def test_adapters_of_another_scale_or_base_are_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """They have the same names and shapes; by the run's folder, or by a checkpoint in it."""
    config = load_config("text_to_image/dmd_shapes", ["dmd.adapters.kind=lora", "dmd.adapters.rank=16"])
    assert isinstance(config, DMDConfig)
    digest = change.get("digest", content_digest(Path(config.teacher.path)))
    contents = {} if digest is None else {"teacher.path": digest}
    about = {"layout": LAYOUT, "git": {}, "packages": {}, "threads": 1, "shares": 1, "contents": contents}
    write_json(tmp_path / "environment.json", about)
    adapters = {"kind": "lora", "rank": 16, "alpha": change.get("alpha")}
    write_json(tmp_path / "config.yaml", {"dmd": {"adapters": adapters}})
    for place in (tmp_path, tmp_path / "checkpoints/newest-step=4.ckpt"):
        with pytest.raises(UserError, match=said) if said else nullcontext():
            require_same_base(config, str(place))
    whole = load_config("text_to_image/dmd_shapes", ["dmd.adapters.kind=none"])
    assert isinstance(whole, DMDConfig)
    require_same_base(whole, str(tmp_path))


def complete(small_config: MakeConfig, *words: str) -> None:
    from carv_distill.engine.config import load_config as load_any
    from carv_distill.tasks import TASKS
    from tests.helpers.small import ROOT, SMALL

    load_any(TASKS, ROOT / "configs/dmd_carv.yaml", [*SMALL, *words], complete=True)
