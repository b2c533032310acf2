import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from carv_distill.errors import UserError
from carv_distill.files import DIGESTS
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.teachers.parametrisation import (
    EDMPreconditioning,
    EpsPreconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from carv_distill.teachers.schedule import EDMSchedule, LogNormalSchedule, VPSchedule
from carv_distill.teachers.teacher import edm_scheduler_config, load_teacher, save_teacher
from tests.helpers.small import ROOT, largest_file
from tests.helpers.tiny_unet import tiny_unet

EDM = edm_scheduler_config(EDMSchedule(0.01, 50.0, 5.0), sigma_data=0.7)
WEIGHTS = "diffusion_pytorch_model.safetensors"
X, LEVEL = torch.linspace(-1, 1, 64).view(1, 1, 8, 8), torch.tensor([0.6])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's EDM teacher in the root layout: without digests of its weights."""
    save_teacher(tmp_path / "teacher", tiny_unet(), EDM, "# card\n")
    (tmp_path / "teacher" / DIGESTS).unlink()
    return tmp_path / "teacher"


def refusal(path: str | Path) -> str:
    """The one-line message with which a teacher is refused."""
    with pytest.raises(UserError) as caught:
        load_teacher(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def set_scheduler(folder: Path, config: dict[str, Any]) -> None:
    (folder / "scheduler_config.json").write_text(json.dumps(config))


# ---------------------------------------------------------------- what loads


def test_round_trip_is_bit_exact(folder: Path) -> None:
    """save_teacher → load_teacher keeps every weight, the noise schedule, σ_data and the card."""
    unet, teacher = tiny_unet(), load_teacher(folder)
    loaded = teacher.network.model.state_dict()
    assert loaded.keys() == unet.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in unet.state_dict().items())
    assert teacher.schedule == EDMSchedule(0.01, 50.0, 5.0)
    assert teacher.denoiser.precondition == EDMPreconditioning(0.7)
    assert teacher.scheduler_config == EDM
    assert (folder / "README.md").read_text() == "# card\n"
    assert (teacher.channels, teacher.size, teacher.labels) == (1, 8, 0)
    expected = EDMPreconditioning(0.7)(LEVEL)
    with torch.no_grad():
        y = expected.signal * X
        raw = teacher.network.model(y, expected.c_noise).sample
        assert torch.equal(teacher.denoiser(X, LEVEL), expected.skip * y + expected.out * raw)


def test_a_loaded_teacher_is_frozen(folder: Path) -> None:
    """No parameter takes a gradient, and it is in evaluation mode."""
    denoiser = load_teacher(folder).denoiser
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())


def test_diffusers_reads_what_is_saved(folder: Path) -> None:
    """UNet2DModel.from_pretrained(folder) has the same weights, and nothing but these files is there."""
    save_teacher(folder, tiny_unet(), EDM, "# card\n")
    unet = UNet2DModel.from_pretrained(folder)
    assert all(map(torch.equal, unet.state_dict().values(), tiny_unet().state_dict().values()))
    names = {file.name for file in folder.iterdir()}
    assert names == {"README.md", "config.json", "scheduler_config.json", DIGESTS, WEIGHTS}
    assert [file.name for file in folder.parent.iterdir()] == ["teacher"]


def test_saving_again_replaces(folder: Path) -> None:
    """A second save into the same folder wins, and leaves no scratch files."""
    save_teacher(folder, tiny_unet(seed=1), EDM, "# other\n")
    loaded = load_teacher(folder).network.model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tiny_unet(seed=1).state_dict().items())
    assert (folder / "README.md").read_text() == "# other\n"
    assert [file.name for file in folder.parent.iterdir()] == ["teacher"]


def test_pipeline_layout(tmp_path: Path, folder: Path) -> None:
    """unet/ and scheduler/ sub-folders give the same denoiser as the root layout."""
    pipeline = tmp_path / "pipeline"
    for name, part in (("config.json", "unet"), (WEIGHTS, "unet"), ("scheduler_config.json", "scheduler")):
        (pipeline / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, pipeline / part / name)
    assert torch.equal(
        load_teacher(str(pipeline)).denoiser(X, LEVEL), load_teacher(folder).denoiser(X, LEVEL)
    )


@pytest.mark.parametrize(
    ("prediction", "kind"),
    [("epsilon", EpsPreconditioning), ("v_prediction", VPreconditioning), ("sample", SamplePreconditioning)],
)
def test_ddpm_schedulers(folder: Path, prediction: str, kind: Callable[..., Any]) -> None:
    """Each prediction type of a DDPM scheduler gives its preconditioning on the scheduler's own betas."""
    scheduler = DDPMScheduler(100, beta_schedule="linear", prediction_type=prediction, clip_sample=False)
    set_scheduler(folder, json.loads(scheduler.to_json_string()))
    teacher = load_teacher(folder)
    assert isinstance(teacher.schedule, VPSchedule)
    assert teacher.schedule == VPSchedule(scheduler.betas)
    assert teacher.denoiser.precondition == kind(teacher.schedule)
    # D against diffusers' own x0, at a timestep of the table
    sigma = teacher.schedule.table[40:41].float()
    x_vp = X / (1 + sigma**2).sqrt()
    with torch.no_grad():
        raw = teacher.network.model(x_vp, 40).sample
    original = scheduler.step(raw, 40, x_vp).pred_original_sample
    torch.testing.assert_close(teacher.denoiser(X, sigma), original, rtol=1e-4, atol=1e-5)


def test_trained_betas(folder: Path) -> None:
    """A scheduler may bring its table."""
    set_scheduler(folder, {"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]})
    schedule = load_teacher(folder).schedule
    assert schedule.sigma_max == pytest.approx((0.28 / 0.72) ** 0.5, rel=1e-6)


def test_older_attention_names_load(tmp_path: Path) -> None:
    """The weights of google/ddpm-cifar10-32 are named query, key, value, proj_attn: none is lost."""
    attention = {
        "down_block_types": ("AttnDownBlock2D",) * 2,
        "up_block_types": ("AttnUpBlock2D",) * 2,
        "attention_head_dim": 4,
    }
    unet = tiny_unet(**attention)
    save_teacher(tmp_path / "old", unet, EDM, "")
    old = {}
    for key, value in load_file(tmp_path / "old" / WEIGHTS).items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f"{new}.", f"{before}.")
        old[key] = value
    assert old.keys() != unet.state_dict().keys()
    save_file(old, tmp_path / "old" / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "old" / DIGESTS).unlink()
    loaded = load_teacher(tmp_path / "old").network.model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in unet.state_dict().items())


# ---------------------------------------------------------------- guidance


def test_guidance_needs_a_null_label(tmp_path: Path) -> None:
    """Scale 1 is the plain teacher; another scale needs one embedding beyond the classes."""
    save_teacher(tmp_path / "conditional", tiny_unet(labels=4), EDM, "")
    teacher = load_teacher(tmp_path / "conditional")
    assert teacher.labels == 4
    assert teacher.guided(1, classes=4) is teacher.denoiser
    guided = teacher.guided(2.5, classes=3)
    assert isinstance(guided, GuidedDenoiser)
    assert (guided.scale, guided.null.value.item()) == (2.5, 3)
    with pytest.raises(
        UserError, match=r"^teacher\.guidance: 2\.5 needs .* 5 class embeddings for 4 .*found 4$"
    ):
        teacher.guided(2.5, classes=4)


# ---------------------------------------------------------------- what is refused


def test_missing_folder(tmp_path: Path) -> None:
    """Neither a folder nor a hub id."""
    assert "is not a folder, nor a hub id" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json"])
def test_missing_config(folder: Path, name: str) -> None:
    """The message names the file that is missing."""
    (folder / name).unlink()
    assert f"{folder / name} is missing" in refusal(folder)


@pytest.mark.parametrize("content", [b'{"a": ', b"", b"\xff\xfe", b"[]", b"null"])
@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json"])
def test_malformed_json(folder: Path, name: str, content: bytes) -> None:
    """Cut off, empty, not text, or not an object: the message names the file."""
    (folder / name).write_bytes(content)
    assert f"{folder / name} is not " in refusal(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -100])
def test_truncated_weights(folder: Path, kept: int) -> None:
    """An empty file, half a header, a cut header and a cut body are all refused."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:kept])
    assert "has no readable UNet2DModel" in refusal(folder)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """With a .bin alone, harmful or sound, the teacher is refused, and the pickle's code does not run."""
    (folder / WEIGHTS).unlink()
    witness = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    for content in (Trap(), tiny_unet().state_dict()):
        torch.save(content, folder / "diffusion_pytorch_model.bin")
        assert "has no readable UNet2DModel" in refusal(folder)
    assert not witness.exists()


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    """A file without one of the tensors is refused; diffusers would start it at random."""
    weights = load_file(folder / WEIGHTS)
    del weights["conv_out.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert refusal(folder).endswith("lacks 1 of the network's weights, such as conv_out.weight")


def test_weights_of_another_shape(folder: Path) -> None:
    """A configuration that does not fit the weights."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 16]}))
    assert "size mismatch" in refusal(folder)


def test_learned_variances(tmp_path: Path) -> None:
    """Twice the output channels."""
    save_teacher(tmp_path / "variance", tiny_unet(out_channels=2), EDM, "")
    message = refusal(tmp_path / "variance")
    assert message.endswith("predicts 2 channels for 1; learned variances are not supported")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "KarrasVeScheduler"}, "has neither betas nor EDM noise levels"),
        ({}, "has neither betas nor EDM noise levels"),
        ({**EDM, "prediction_type": "v_prediction"}, "an EDM scheduler with prediction_type 'v_prediction'"),
        ({**EDM, "sigma_schedule": "cubic"}, "no readable scheduler"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "cubic"}, "no readable scheduler: cubic"),
        (
            {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "flow"},
            "prediction_type 'flow' is not one of epsilon, v_prediction, sample",
        ),
        (
            {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "rescale_betas_zero_snr": True},
            "zero signal at the end",
        ),
    ],
)
def test_unknown_parametrisations(folder: Path, config: dict[str, Any], message: str) -> None:
    """What is not known here is refused, with what was found."""
    set_scheduler(folder, config)
    assert message in refusal(folder)


@pytest.mark.parametrize("hub_id", ["somebody/no-such-teacher", "some--body/teacher"])
def test_hub_id_while_offline(hub_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the network a hub id that is not cached (or not valid) is refused in one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert "is not a folder here, and the hub gave no such model" in refusal(hub_id)


def test_a_full_disk_keeps_the_folder_as_it_was(folder: Path) -> None:
    """No file may grow beyond 4 kB: one line, and what was saved before is untouched."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with largest_file(4_000), pytest.raises(UserError, match="could not be written") as caught:
        save_teacher(folder, tiny_unet(seed=1), EDM, "# card\n")
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_levels_of_the_training_are_kept(tmp_path: Path) -> None:
    """So that a loss over them is the same of a run and of its folder; what is no number is one line."""
    levels = LogNormalSchedule(-0.5, 1.6, 0.02, 20.0)
    config = edm_scheduler_config(EDMSchedule(0.02, 20.0), 0.5)
    save_teacher(tmp_path / "t", tiny_unet(), config, "", levels)
    assert load_teacher(tmp_path / "t").levels == levels
    assert load_teacher(ROOT / "checkpoints/digits-teacher").levels == levels
    for content, said in (
        ('{"p_mean": 1}', "p_mean and p_std must be numbers"),
        ('{"p_mean": "x", "p_std": 1}', "p_mean and p_std must be numbers"),
        (f'{{"p_mean": 1{"0" * 400}, "p_std": 1}}', "p_mean and p_std must be numbers"),
        ('{"p_mean": 1, "p_std": 0}', "p_std above 0"),
        ('{"p_mean": 1, "p_std": 1, "classes": "cat"}', "classes is 'cat'; a list of names"),
        ("[1]", "is not a JSON object"),
    ):
        (tmp_path / "t/training.json").write_text(content)
        with pytest.raises(UserError, match=rf"training.json.* {said}"):
            load_teacher(tmp_path / "t")


@pytest.mark.parametrize("network", [None, "UNet2DConditionModel"])
def test_a_pipeline_of_another_kind_is_named_by_its_class(network: str | None, tmp_path: Path) -> None:
    """Its own files are whole: what an image teacher would have is not missing in it."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    if network:
        (tmp_path / "unet/config.json").write_text(json.dumps({"_class_name": network}))
    said = refusal(tmp_path)
    assert said.startswith(f"teacher.path: {tmp_path} is a 'WanPipeline'; pictures with labels, or with")


def test_of_a_run_the_teacher_in_it_is_named(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/mine"
    run.mkdir(parents=True)
    folder.rename(run / "teacher")
    assert refusal(run) == f"teacher.path: {run} is no teacher's folder; {run / 'teacher'} is one"


def test_names_of_classes_are_kept(tmp_path: Path) -> None:
    schedule = EDMSchedule(0.05, 5.0)
    levels, config = LogNormalSchedule(0.0, 1.0, 0.05, 5.0), edm_scheduler_config(schedule, 0.5)
    save_teacher(tmp_path / "a", tiny_unet(labels=3), config, "", levels, ("cat", "dog"))
    assert load_teacher(tmp_path / "a").classes == ("cat", "dog")
    save_teacher(tmp_path / "b", tiny_unet(labels=3), config, "", levels)
    assert load_teacher(tmp_path / "b").classes == ()
