"""What lowers a CUDA device's memory, and the run that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from carv_distill.distillation import preparation
from carv_distill.distillation.optimisers import make_optimisers
from carv_distill.distillation.options import DMDConfig, DMDOptions
from carv_distill.engine import averages
from carv_distill.engine.averages import Averaging, HostAveraging
from carv_distill.engine.devices import free_memory
from carv_distill.engine.optimisation import ParameterVector, frozen_copy
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from tests.helpers.small import ON_GPU
from tests.helpers.tiny_prompted import save_prompted, words

pytestmark = ON_GPU


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prompted(tmp_path)
    return tmp_path


def config(folder: Path, *more: str) -> DMDConfig:
    loaded = load_config("text_to_image/dmd_shapes", [*words(folder), "trainer.max_steps=2", *more])
    assert isinstance(loaded, DMDConfig)
    return loaded


def test_the_device_makes_averages_in_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit those that lie beside it, in slices of 1000 numbers, over ten updates."""
    monkeypatch.setattr(averages, "SLICE", 1000)
    results = []
    for averaging in (Averaging(), HostAveraging()):
        torch.manual_seed(0)
        learner = nn.Linear(97, 53).cuda()
        average = frozen_copy(learner)
        theta = ParameterVector(list(learner.parameters()))
        first = averaging.vector(list(average.parameters()), 1)
        g = torch.Generator("cuda").manual_seed(0)
        for _ in range(10):
            averaging.before_step()
            theta.theta.data += torch.randn(theta.theta.shape, generator=g, device="cuda")
            theta.average_into(first.local, 0.9, averaging.update)
        with averaging.on_device(average.parameters(), torch.device("cuda")):
            assert all(p.is_cuda for p in average.parameters())
        results.append(torch.cat([p.flatten() for p in average.parameters()]))
    on_device, in_host = results
    assert not in_host.is_cuda
    assert all(p.is_pinned() for p in average.parameters())
    assert torch.equal(on_device.cpu(), in_host)


@pytest.mark.parametrize("more", [(), ("dmd.adapters.kind=lora",)])
def test_a_run_is_the_same_with_averages_in_the_hosts_memory(
    more: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    states = []
    for place in ("device", "host"):
        own = f"name={place}", f"dmd.ema_memory={place}"
        run = train(config(folder, *own, "dmd.ema_beside=[0.5]", *more))
        state = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
        assert (run / "student/averages/0.5/model_index.json").is_file()
        states.append(state)
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)


def test_eight_bits_on_the_device() -> None:
    """As AdamW in the first update, and 2 % of the way apart after ten; a vector in parts is one."""
    pytest.importorskip("bitsandbytes")
    thetas, ways = [], []
    for kind in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        theta = ParameterVector([nn.Parameter(torch.randn(100_003, device="cuda"))])
        start = theta.theta.detach().clone()
        (optimiser,) = make_optimisers(DMDOptions(optimiser=kind, student_lr=1e-3, beta1=0.9), [theta])
        g = torch.Generator("cuda").manual_seed(1)
        for step in range(10):
            theta.parts[0].grad = torch.randn(100_003, generator=g, device="cuda")
            theta.descend(optimiser)
            if step == 0:
                ways.append(theta.theta.detach() - start)
        thetas.append(theta.theta.detach() - start)
    torch.testing.assert_close(ways[0], ways[1], rtol=1e-4, atol=1e-7)
    assert (thetas[0] - thetas[1]).norm() < 0.05 * thetas[0].norm()


def test_a_run_that_does_not_fit_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = free_memory("cuda")
    assert there is not None
    assert 0 < there <= torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    ballast = torch.empty(there - 2**26, dtype=torch.uint8, device="cuda")
    left = free_memory("cuda")
    assert left is not None
    assert left < 2**28
    with pytest.raises(UserError, match="this run needs at least"):
        preparation.prepare(config(folder, "dmd.fake_batch=100000"), "cuda", 1).require()
    del ballast
    torch.cuda.empty_cache()
