"""Pickles that are not what the converter takes: each is refused in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.teachers.convert import main
from tests.helpers.edm_networks import CONFIGS, small
from tests.helpers.edm_pickles import Call, Persistent, Refused, content, persistent_module, published, write

pytestmark = pytest.mark.usefixtures("_published_modules")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04.", b"\x80\x04}", b"[1, 2]\n"])
def test_not_a_pickle(data: bytes, refused: Refused) -> None:
    Path("x.pkl").write_bytes(data)
    assert "is not a pickle, or is cut off or damaged" in refused(Path("x.pkl"))


def test_a_torch_checkpoint(refused: Refused) -> None:
    torch.save({"ema": torch.zeros(2)}, "x.pkl")
    assert "is not a pickle, but a zip, such as a torch checkpoint" in refused(Path("x.pkl"))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated(share: float, refused: Refused) -> None:
    data = pickle.dumps(content(), 4)
    Path("x.pkl").write_bytes(data[: int(share * len(data))])
    assert "is not a pickle, or is cut off or damaged" in refused(Path("x.pkl"))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"G": 1, "D": 2}, "has no key ema, as EDM's network pickles have; found: G, D"),
        ([1], "has no key ema, as EDM's network pickles have; found: list"),
        ({}, "found: nothing"),
        ({"ema": 3}, "ema is a int, not one of EDMPrecond"),
        (
            {"ema": Persistent("VPPrecond", {})},
            "a network of the VP baseline (its class is VPPrecond), which is not supported",
        ),
        ({"ema": Persistent("EDMPrecond", {})}, "ema.model is a NoneType, not one of SongUNet, DhariwalUNet"),
        (
            {"ema": Persistent("EDMPrecond", {"_modules": {"model": Persistent("Unet\nB", {})}})},
            "ema.model is a Unet B, not one of SongUNet, DhariwalUNet",
        ),
    ],
)
def test_other_contents(found: Any, message: str, refused: Refused) -> None:
    """Another kind of file: what was found and what is allowed."""
    assert message in refused(write(Path("x.pkl"), found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "SongUNet takes no 'depth'; allowed: img_resolution, in_channels"),
        ({"dropout": {}}, "SongUNet's dropout is a dict, not plain"),
        ({"encoder_type": "other"}, "no SongUNet of that kind: encoder_type 'other' is not one of standard"),
        ({"num_blocks": 10_000}, "SongUNet's num_blocks is 10000; at most 64 are read"),
        ({"channel_mult": [1] * 65}, "SongUNet's channel_mult is a list, not plain"),
        ({"model_channels": 10**7}, "SongUNet's model_channels is a int, not plain"),
        ({"model_channels": 4096}, "numbers does not fit into"),
        ({"num_blocks": 2}, "of the network's tensors, such as dec.4x4_block2.affine.bias"),
        ({"augment_dim": 0}, "has 1 tensors that the network has no place for, such as 'map_augment.weight'"),
        ({"in_channels": 1}, "enc.8x8_conv.weight has shape (8, 3, 3, 3), the network (8, 1, 3, 3)"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str, refused: Refused) -> None:
    """The file's arguments against its tensors."""
    found = published(small("ddpm++"), {**CONFIGS["ddpm++"], **changes})
    assert message in refused(write(Path("x.pkl"), found))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, refused: Refused) -> None:
    network = small("ddpm++")
    network.map_layer0.bias.data[3] = value
    line = refused(write(Path("x.pkl"), published(network, CONFIGS["ddpm++"])))
    assert "map_layer0.bias has values that are not finite" in line


def test_a_tensor_beyond_its_storage(refused: Refused) -> None:
    """Nothing outside of what the file holds is read."""
    tensor = torch.zeros(4)
    beyond = Call(torch._utils._rebuild_tensor_v2, tensor.storage(), 0, (5,), (1,), False, {})
    assert "is not a pickle, or is cut off or damaged" in refused(write(Path("x.pkl"), {"ema": beyond}))


@pytest.mark.parametrize("value", ["wide", -1.0, float("nan"), None, True, [1]])
def test_noise_levels_that_are_none(value: Any, refused: Refused) -> None:
    line = refused(write(Path("x.pkl"), content(sigma_data=value)))
    assert f"ema.sigma_data is {value!r}, not a number from 0 on" in line


def test_noise_levels_in_the_wrong_order(refused: Refused) -> None:
    assert "ema.sigma_min is 90, not below" in refused(write(Path("x.pkl"), content(sigma_min=90)))


def test_a_file_that_contains_itself(refused: Refused) -> None:
    """Modules without end are not followed."""
    module = persistent_module(small("ddpm++"), "SongUNet", _init_kwargs=CONFIGS["ddpm++"])
    module.state["_modules"]["enc"] = loop = persistent_module(torch.nn.ModuleDict())
    loop.__dict__["_modules"]["enc"] = loop
    found = {"ema": Persistent("EDMPrecond", {"_modules": {"model": module}})}
    assert "lacks " in refused(write(Path("x.pkl"), found))


def test_missing_file(refused: Refused) -> None:
    assert "absent.pkl is not a file" in refused(Path("absent.pkl"))


def test_a_folder_that_is_not_empty_is_kept(refused: Refused) -> None:
    """Nothing is overwritten, and the pickle is not even opened."""
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    write(Path("edm.pkl"), content())
    assert "out is not empty" in refused(Path("edm.pkl"), Path("out"))
    assert Path("out/notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken_and_a_file_is_not(refused: Refused) -> None:
    write(Path("edm.pkl"), content())
    Path("out").touch()
    assert "out is a file" in refused(Path("edm.pkl"), Path("out"))
    Path("out").unlink()
    Path("out").mkdir()
    assert main(["edm.pkl", "out"]) == 0
    assert json.loads(Path("out/config.json").read_text())["_class_name"] == "SongUNet"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["edm.pkl"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: the following arguments are required: OUT\n"


def test_a_number_too_large_for_a_float_is_one_line(refused: Refused) -> None:
    assert "ema.sigma_data is 1000" in refused(write(Path("x.pkl"), content(sigma_data=10**400)))
