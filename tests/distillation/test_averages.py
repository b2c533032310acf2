"""A student's averages in the host's memory: the same run, product and pictures as on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from carv_distill.distillation.averages import average_decays, networks_beside
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.memory.footprint import LiveBytes
from carv_distill.distillation.options import DMDConfig, DMDOptions
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from tests.helpers.adapted import on_cuda, shared_network
from tests.helpers.small import SMALL
from tests.helpers.tiny_prompted import save_prompted, words

MakeConfig = Callable[..., DMDConfig]
BESIDE = "dmd.ema_beside=[0.5,0.25]"


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the product with its averages, and of the newest checkpoint."""
    files = sorted((run / "student").rglob("*.safetensors"))
    found = {f"{f.relative_to(run)}:{k}": v for f in files for k, v in load_file(f).items()}
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return found | state


def assert_same(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert any("averages/0.25" in key for key in one)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    lines = [(run / "metrics.csv").read_text().splitlines() for run in (a, b)]
    seconds = lines[0][0].split(",").index("seconds")
    rows = [[r.split(",")[:seconds] + r.split(",")[seconds + 1 :] for r in own] for own in lines]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_the_run_is_the_same(small_config: MakeConfig) -> None:
    """Losses, FID, checkpoint and product, bit for bit; also of a run that moves its averages half-way."""
    shared = (BESIDE, "fid.every=2", "fid.images=50")
    device = train(small_config("name=device", *shared))
    host = train(small_config("name=host", "dmd.ema_memory=host", *shared))
    assert_same(device, host)
    train(small_config("name=moved", "trainer.max_steps=2", *shared))
    moved = train(small_config("name=moved", "dmd.ema_memory=host", *shared), resume=True)
    assert_same(device, moved)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("dmd.adapters.kind=lora", "dmd.adapters.rank=2"), ()])
def test_of_a_text_student(more: tuple[str, ...], tmp_path: Path) -> None:
    save_prompted(tmp_path)
    runs = []
    for place in ("device", "host"):
        options = [*words(tmp_path), BESIDE, *more, "trainer.max_steps=3", "trainer.log_every=1"]
        config = load_config(
            "text_to_image/dmd_shapes", [*options, f"name={place}", f"dmd.ema_memory={place}"]
        )
        runs.append(train(config))
    assert_same(*runs)


def test_sharded_averages_stay(tmp_path: Path) -> None:
    said = r"dmd\.ema_memory: host does not go with trainer\.sharding: fsdp.*allowed: device"
    with pytest.raises(UserError, match=said):
        load_config("dmd_carv", [*SMALL, "dmd.ema_memory=host", "trainer.sharding=fsdp"])


def test_decays() -> None:
    options = DMDOptions(ema=0.9, ema_beside=[0.5], ema_ramp=False)
    assert average_decays(options, 10, 0) == [0.9, 0.5]
    options.ema_half_life = 0.01
    assert average_decays(options, 10, 0) == [0.5, 0.5]
    options.ema_ramp = True
    assert average_decays(options, 10, 0) == [0.1, 0.1]


def test_a_checkpoint_of_whole_networks_copies_no_average(small_config: MakeConfig) -> None:
    config = small_config(BESIDE)
    module = build_module(config, load_data(config))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"]["averages"].data_ptr() == module.averages.data_ptr()


def test_networks_beside_are_copies() -> None:
    network = torch.nn.Linear(2, 1)
    rows = torch.arange(6.0).view(2, 3)
    made = dict(networks_beside(network, rows, [0.5, 0.25]))  # type: ignore[arg-type]
    assert list(made) == ["0.5", "0.25"]
    assert made["0.25"].weight.tolist() == [[3, 4]]
    assert made["0.25"].weight.data_ptr() != rows[1].data_ptr()


@pytest.mark.slow
def test_averages_beside_an_adapter_share_what_it_lies_over() -> None:
    """On a GPU, without memory: a row's numbers are all that is made, on the CPU, and the network that is
    written from them has theirs."""
    view = on_cuda(shared_network().view("average"))
    row = torch.cat([p.detach().flatten() for p in view.parameters()])
    with LiveBytes() as live:
        ((_, beside),) = networks_beside(view, [row], [0.5])  # type: ignore[arg-type]
        assert live.peak == row.nbytes
    assert {p.device.type for p in beside.parameters()} == {"cpu"}
    shared = shared_network()
    row = torch.cat([p.detach().flatten() for p in shared.parameters("student")])
    ((_, beside),) = networks_beside(shared.view("average"), [row], [0.5])  # type: ignore[arg-type]
    written, student, average = (
        beside.shared.merged("average"),
        shared.merged("student"),
        shared.merged("average"),
    )
    assert all(map(torch.equal, written.parameters(), student.parameters()))
    assert not all(map(torch.equal, written.parameters(), average.parameters()))
