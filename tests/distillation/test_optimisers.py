"""Optimisers of a distillation: AdamW, and its moments in 8 bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from carv_distill.commands.train import main
from carv_distill.distillation import optimisers
from carv_distill.distillation.memory.needs import MOMENTS
from carv_distill.distillation.optimisers import BLOCK, make_optimisers, set_learning_rates
from carv_distill.distillation.options import DMDConfig, DMDOptions
from carv_distill.engine.optimisation import ParameterVector
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, train
from tests.helpers.small import SMALL

MakeConfig = Callable[..., DMDConfig]
EIGHT = DMDOptions(optimiser="adamw_8bit", student_lr=1e-3, fake_lr=2e-3, beta1=0.9, weight_decay=0.1)


def vector(size: int) -> ParameterVector:
    g = torch.Generator().manual_seed(0)
    return ParameterVector(
        [nn.Parameter(torch.randn(part, generator=g)) for part in (size // 3, size - size // 3)]
    )


def gradient(size: int, step: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(step))


def descend(theta: ParameterVector, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        flat = gradient(len(theta.theta), step)
        for p, g in zip(theta.parts, flat.split([len(p) for p in theta.parts]), strict=True):
            p.grad = g.clone()
        theta.descend(optimiser)


def test_adamw_by_default() -> None:
    student, fake, head = make_optimisers(DMDOptions(), [vector(9), vector(9), vector(9)])
    assert {type(o) for o in (student, fake, head)} == {AdamW}
    assert [o.param_groups[0]["lr"] for o in (student, fake, head)] == [3e-4, 6e-4, 6e-4]


@pytest.mark.parametrize(("key", "value"), [("trainer.sharding", "fsdp"), ("trainer.precision", "64-true")])
def test_eight_bits_are_for_whole_networks_in_float32(key: str, value: str) -> None:
    said = rf"dmd\.optimiser: adamw_8bit does not go with {key}: {value}.*allowed: adamw"
    with pytest.raises(UserError, match=said):
        load_config("dmd_carv", [*SMALL, "dmd.optimiser=adamw_8bit", f"{key}={value}"])


def test_without_the_library_it_is_one_line_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    words = [*SMALL, f"folder={tmp_path}/runs", "dmd.optimiser=adamw_8bit"]
    assert main(["--config", "configs/dmd_carv.yaml", *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: dmd.optimiser: adamw_8bit: the package bitsandbytes is not installed")
    assert "pip install 'carv-distill[8bit]'" in said
    assert not (tmp_path / "runs").exists()


class TestWithTheLibrary:
    """What needs bitsandbytes, which has kernels for a CPU too."""

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("bitsandbytes")

    @pytest.mark.parametrize("size", [100, 1000, 100_003])
    def test_bytes_of_the_moments(self, size: int) -> None:
        """Two bytes a parameter, two scales a block, and two tables of 256 numbers."""
        theta = vector(size)
        (optimiser,) = make_optimisers(EIGHT, [theta])
        descend(theta, optimiser, range(1))
        (state,) = optimiser.state.values()
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        moments = sum(v.nbytes for k, v in tensors.items() if not k.startswith("qmap"))
        assert moments == 2 * (size + 4 * -(-size // BLOCK))
        assert sum(v.nbytes for k, v in tensors.items() if k.startswith("qmap")) == 2 * 256 * 4
        if size > 10_000:
            assert moments == pytest.approx(MOMENTS[8] * size, rel=0.01)

    def test_updates_are_near_adamws(self) -> None:
        """The first is AdamW's, as its moments are not yet rounded; after ten the two are 1 % of the way
        apart, and each is far from its start."""
        size, thetas = 10_000, (vector(10_000), vector(10_000))
        start = thetas[0].theta.detach().clone()
        (eight,), (full,) = (
            make_optimisers(EIGHT, thetas[:1]),
            make_optimisers(DMDOptions(student_lr=1e-3, beta1=0.9, weight_decay=0.1), thetas[1:]),
        )
        for theta, optimiser in zip(thetas, (eight, full), strict=True):
            descend(theta, optimiser, range(1))
        torch.testing.assert_close(thetas[0].theta, thetas[1].theta, rtol=1e-6, atol=1e-7)
        for theta, optimiser in zip(thetas, (eight, full), strict=True):
            descend(theta, optimiser, range(1, 10))
        apart = (thetas[0].theta - thetas[1].theta).norm()
        way = (thetas[1].theta - start).norm()
        assert way > 1e-3 * size**0.5
        assert 0 < apart < 0.03 * way

    def test_learning_rates_are_set(self) -> None:
        theta = vector(300)
        (optimiser,) = make_optimisers(EIGHT, [theta])
        options = DMDOptions(optimiser="adamw_8bit", student_lr=1e-3, warmup=4)
        set_learning_rates(options, [optimiser], 1, 10)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(5e-4)
        before = theta.theta.detach().clone()
        optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["weight_decay"] = 0.0, 0.0
        descend(theta, optimiser, range(2))
        assert torch.equal(theta.theta, before)

    def test_a_long_vector_is_cut_into_whole_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The kernels count in 32 bits: SDXL has 2.6 · 10⁹ parameters. The same numbers, bit for bit."""
        whole = vector(5000)
        (optimiser,) = make_optimisers(EIGHT, [whole])
        descend(whole, optimiser, range(3))
        monkeypatch.setattr(optimisers, "LONGEST", 8 * BLOCK)
        cut = vector(5000)
        (other,) = make_optimisers(EIGHT, [cut])
        descend(cut, other, range(3))
        assert [len(t) for t in cut.tensors] == [2048, 2048, 904]
        assert torch.equal(whole.theta, cut.theta)
        assert torch.equal(cut.theta.detach(), torch.cat([p.detach().flatten() for p in cut.parts]))
        assert torch.equal(cut.gradients[0], torch.cat([t.grad for t in cut.tensors if t.grad is not None]))

    def test_a_run_resumes_bit_for_bit(self, small_config: MakeConfig) -> None:
        words = ("dmd.optimiser=adamw_8bit", "dmd.warmup=3")
        whole = train(small_config("name=whole", *words))
        train(small_config("name=cut", "trainer.max_steps=2", *words))
        cut = train(small_config("name=cut", *words), resume=True)
        plain = train(small_config("name=plain", "dmd.warmup=3"))
        states = [
            torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
            for run in (whole, cut, plain)
        ]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        assert not all(torch.equal(value, states[2][key]) for key, value in states[0].items())
