"""The converter of published pickles: what it makes of sound files, and of harmful ones."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from carv_distill.errors import UserError
from carv_distill.teachers.convert import main
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.edm_networks import CONFIGS, inputs, small
from tests.helpers.edm_pickles import Call, Refused, content, published, write

pytestmark = pytest.mark.usefixtures("_published_modules")
SIGMA = torch.tensor([0.1, 2.0, 60.0])


# ---------------------------------------------------------------- what is converted


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", ["ddpm++", "ncsn++", "adm"])
def test_a_file_becomes_a_teacher(name: str, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that is written gives D of the same weights; its card names file, class and labels."""
    write(Path("edm.pkl"), content(name), protocol)
    assert main(["edm.pkl", "out"]) == 0
    teacher, network = load_teacher("out"), small(name)
    assert type(teacher.network.model) is type(network)
    assert (teacher.channels, teacher.size, teacher.labels) == (3, 8, 10)
    assert teacher.schedule == EDMSchedule(0.002, 80.0, 7.0)
    assert teacher.denoiser.precondition == EDMPreconditioning(0.5)
    x, _, labels, _ = inputs()
    c = EDMPreconditioning()(SIGMA)
    with torch.no_grad():
        y = c.signal.view(-1, 1, 1, 1) * x
        raw = network(y, c.c_noise, labels).sample
        expected = c.skip.view(-1, 1, 1, 1) * y + c.out.view(-1, 1, 1, 1) * raw
        assert torch.equal(teacher.denoiser(x, SIGMA, labels), expected)
    assert {p.name for p in Path("out").iterdir()} == {
        "README.md",
        "SHA256SUMS",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    }
    card = Path("out/README.md").read_text()
    assert all(word in card for word in ("edm.pkl", "sha256", type(network).__name__, "10 classes"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"out: {type(network).__name__}, ")
    assert not Path("ran").exists()


def test_the_noise_levels_of_the_file() -> None:
    """A file's σ_min, σ_max and σ_data are kept where it has them."""
    write(Path("edm.pkl"), content(sigma_min=0.02, sigma_max=50.0, sigma_data=0.7))
    assert main(["edm.pkl", "out"]) == 0
    teacher = load_teacher("out")
    assert teacher.schedule == EDMSchedule(0.02, 50.0, 7.0)
    assert teacher.denoiser.precondition == EDMPreconditioning(0.7)


def test_guidance_by_the_zero_label() -> None:
    """With label_dropout the index after the classes is the null label; without, guidance is refused."""
    for dropout, labels in ((0.1, 11), (0, 10)):
        write(Path("edm.pkl"), content(changes={"label_dropout": dropout}))
        assert main(["edm.pkl", f"out{labels}"]) == 0
        teacher = load_teacher(f"out{labels}")
        assert teacher.labels == labels
        if not dropout:
            with pytest.raises(UserError, match=r"11 class embeddings for 10 classes; found 10$"):
                teacher.guided(2.0, 10)
            continue
        guided = teacher.guided(2.0, 10)
        assert isinstance(guided, GuidedDenoiser)
        x, _, y, _ = inputs()
        conditional, none = teacher.denoiser(x, SIGMA, y), teacher.denoiser(x, SIGMA)
        torch.testing.assert_close(guided(x, SIGMA, y), 2 * conditional - none, rtol=0, atol=1e-4)


def test_half_precision_weights_become_float32() -> None:
    network = small("ddpm++").half()
    write(Path("edm.pkl"), published(network, CONFIGS["ddpm++"]))
    assert main(["edm.pkl", "out"]) == 0
    assert {p.dtype for p in load_teacher("out").network.parameters()} == {torch.float32}


# ---------------------------------------------------------------- what tries to run code


TOUCH = "__import__('pathlib').Path('ran').touch()"
SYSTEM = f"{os.system.__module__}.system"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Call(os.system, "touch ran"), SYSTEM),
        (Call(eval, TOUCH), "builtins.eval"),
        (Call(exec, TOUCH), "builtins.exec"),
        (Call(getattr, {}, "keys"), "builtins.getattr"),
        (Call(Path.touch, Path("ran")), "builtins.getattr"),
        (Call(torch.load, "x"), "torch.serialization.load"),
        (Call(io.open, "ran", "w"), "open"),
    ],
)
def test_calls_are_refused(call: Call, name: str, protocol: int, refused: Refused) -> None:
    """The global is named, wherever it stands, and is not called."""
    for place, outer in enumerate(({"ema": call}, {**content(), "loss_fn": [call]}, call)):
        line = refused(write(Path(f"{place}.pkl"), outer, protocol))
        assert "refused, as it names" in line
        assert name in line or "pathlib" in line


def test_a_call_within_a_storage_is_refused(refused: Refused) -> None:
    """The bytes of a tensor's storage are a pickle of their own."""
    for call, name in ((Call(os.system, "touch ran"), "system"), (Call(eval, TOUCH), "eval")):
        buffer = io.BytesIO()
        torch.save({"storage": call}, buffer, _use_new_zipfile_serialization=False)
        hidden = Call(torch.storage._load_from_bytes, buffer.getvalue())
        line = refused(write(Path("storage.pkl"), {**content(), "loss_fn": hidden}))
        assert "refused, as it names" in line
        assert name in line


def test_plain_bytes_within_a_storage_are_refused(refused: Refused) -> None:
    hidden = Call(torch.storage._load_from_bytes, pickle.dumps(Call(eval, TOUCH)))
    refused(write(Path("storage.pkl"), {"ema": hidden}))


def test_a_state_for_a_function_is_refused(refused: Refused) -> None:
    """BUILD on a stand-in: nothing of this process is changed by a file."""
    for state in ({"__setstate__": 1}, (None, {"_call": 1}), (None, {"__class__": 1})):
        name = b"ctorch._utils\n_rebuild_parameter\n"
        Path("x.pkl").write_bytes(name + pickle.dumps(state, 0)[:-1] + b"b.")
        assert "damaged: a state for a function" in refused(Path("x.pkl"))


def test_persistent_source_never_runs() -> None:
    """A sound file whose module_src would leave a file behind: it is converted, and leaves none."""
    write(Path("edm.pkl"), content())
    assert b"pathlib" in Path("edm.pkl").read_bytes()
    assert main(["edm.pkl", "out"]) == 0
    assert not Path("ran").exists()


# ---------------------------------------------------------------- what load_teacher says


def test_a_pickle_as_a_teacher() -> None:
    """The message says how to convert it, and the file is not opened."""
    with pytest.raises(UserError) as caught:
        load_teacher("edm.pkl")
    assert str(caught.value).endswith(
        "convert it first: python -m carv_distill.teachers.convert edm.pkl FOLDER"
    )


def test_other_networks_are_refused_by_name() -> None:
    write(Path("edm.pkl"), content())
    assert main(["edm.pkl", "out"]) == 0
    config = json.loads(Path("out/config.json").read_text())
    Path("out/config.json").write_text(json.dumps({**config, "_class_name": "UNet1DModel"}))
    with pytest.raises(UserError, match=r"'UNet1DModel' is not one of UNet2DModel, SongUNet, DhariwalUNet$"):
        load_teacher("out")
