"""A run's plan of memory from its options and networks, and the run that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from carv_distill.commands.train import main
from carv_distill.distillation import preparation
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.memory.footprint import parameter_count
from carv_distill.distillation.memory.needs import GIB, MOMENTS, Plan
from carv_distill.distillation.memory.plan import plan_of
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import load_config
from tests.helpers.small import SMALL
from tests.helpers.tiny_prompted import save_prompted, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plan")
    save_prompted(place)
    return place


def prompted(folder: Path, *more: str) -> tuple[DMDConfig, DMDModule]:
    config = load_config("text_to_image/dmd_shapes", [*words(folder), *more])
    assert isinstance(config, DMDConfig)
    return config, build_module(config, load_data(config))


@cache
def plan(folder: Path, *more: str, processes: int = 1) -> Plan:
    config, module = prompted(folder, *more)
    return plan_of(config, module, processes)


@pytest.mark.slow
def test_whole_networks(folder: Path) -> None:
    config, module = prompted(folder, "dmd.ema_beside=[0.5]", "teacher.precision=bfloat16")
    whole, o = plan_of(config, module, 1), module.objective
    assert whole.parameters == whole.learning == parameter_count(o.student_parameters)
    assert (whole.averages, whole.frozen_bits, whole.lora) == (2, 16, False)
    codec = parameter_count([*o.codec.parameters(), *o.codec.buffers()]) * 4
    assert whole.beside == codec + o.conditions.table.nbytes  # type: ignore[union-attr, operator]
    assert whole.calls is not None
    assert (whole.calls.upstream, whole.calls.draws, whole.calls.fake_batch) == (3, 2, 4)
    assert whole.calls.chunk == 1  # it is halved down to that where memory ends
    adapters = plan(folder, "dmd.adapters.kind=lora", f"dmd.adapters.rank={config.dmd.adapters.rank}")
    assert whole.adapter == adapters.adapter  # what it would be is what it is


@pytest.mark.slow
def test_adapters(folder: Path) -> None:
    config, module = prompted(folder, "dmd.adapters.kind=lora", "dmd.adapters.rank=2")
    lora = plan_of(config, module, 1)
    assert lora.lora
    assert lora.learning == parameter_count(module.objective.student_parameters)
    assert lora.parameters == plan(folder).parameters
    state = [*module.parameters(), *module.objective.conditions.buffers()]
    bytes_now = sum(p.nbytes for p in state if p.is_floating_point())
    table = module.objective.conditions.table.nbytes  # type: ignore[union-attr, operator]
    need = lora.need
    found = need.frozen + need.weights + need.averages + need.beside - table
    assert found == pytest.approx(bytes_now, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ("dmd.ema_memory=host", {"host_averages": True}),
        ("dmd.optimiser=adamw_8bit", {"optimiser_bits": 8}),
        ("trainer.precision=64-true", {"double": True}),
        ("variance.every=5", {"traced": True}),
    ],
)
def test_options_are_the_plans(more: str, changes: dict[str, object], folder: Path) -> None:
    assert plan(folder, "trainer.precision=32-true", more) == replace(
        plan(folder, "trainer.precision=32-true"), **changes
    )


@pytest.mark.slow
def test_shards_are_processes_and_keep_their_chunk(folder: Path) -> None:
    alone = plan(folder, processes=4)
    assert (alone.processes, alone.shards) == (4, 1)
    cut = plan(folder, "trainer.sharding=fsdp", "estimator.chunk=5", processes=4)
    assert (cut.processes, cut.shards) == (4, 4)
    assert cut.calls is not None
    assert cut.calls.chunk == 5
    assert 0 < cut.block < cut.parameters


@pytest.mark.slow
def test_mixed_precision_checkpointing_and_guidance_enter_the_activations(folder: Path) -> None:
    full, half = (plan(folder, f"trainer.precision={p}").calls for p in ("32-true", "bf16-mixed"))
    checkpointed = plan(folder, "dmd.gradient_checkpointing=true", "trainer.precision=32-true").calls
    guided = plan(folder, "teacher.guidance=3").calls
    plain = plan(folder, "teacher.guidance=1").calls
    assert full
    assert half
    assert checkpointed
    assert half.network.kept.each < 0.8 * full.network.kept.each  # what is fixed: the weights, cast
    assert checkpointed.checkpointing
    assert checkpointed.bytes < full.bytes
    assert (guided and guided.guided, plain and plain.guided) == (True, False)


@pytest.mark.slow
def test_a_discriminator_stays_with_its_gradients_and_moments(
    small_config: Callable[..., DMDConfig],
) -> None:
    config = small_config("dmd.gan.fake_weight=0.1")
    module = build_module(config, load_data(config))
    heads = module.objective.discriminator
    assert isinstance(heads, nn.Module)
    labelled = plan_of(config, module, 1)
    assert labelled.beside == (8 + MOMENTS[32]) * parameter_count(heads.parameters())
    assert labelled.adapter is None
    assert labelled.calls is not None
    assert labelled.calls.checkpointed is None  # an option of prompts alone


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("dmd.adapters.kind=lora",), ("dmd.gradient_checkpointing=true",)])
def test_the_quick_count_is_an_upper_bound(more: tuple[str, ...], folder: Path) -> None:
    config, module = prompted(folder, *more)
    quick, exact = plan_of(config, module, 1, exact=False).calls, plan_of(config, module, 1).calls
    assert quick
    assert exact
    assert exact.bytes <= quick.bytes
    assert quick.bytes <= 5 * replace(exact, checkpointing=False).bytes


@pytest.mark.slow
def test_counting_leaves_networks_and_random_numbers_alone(folder: Path) -> None:
    config, module = prompted(folder, "dmd.adapters.kind=lora")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(0)
    plan_of(config, module, 1)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(isinstance(p.grad, torch.Tensor) for p in module.parameters())


@pytest.mark.parametrize("labelled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_that_does_not_fit_is_one_line_and_no_folder(
    labelled: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preparation, "free_memory", lambda device: GIB // 10_000)
    runs = tmp_path / "runs"
    if labelled:
        line = ["--config", "configs/dmd_carv.yaml", *SMALL, f"folder={runs}"]
    else:
        line = ["--config", "configs/text_to_image/dmd_shapes.yaml", *words(folder), f"folder={runs}"]
    assert main(line) == 2
    said = capsys.readouterr().err.splitlines()
    errors = [text for text in said if text.startswith("error:")]
    assert len(errors) == 1
    assert errors[0] == said[-1]
    assert "this run needs at least" in errors[0]
    assert "are free" in errors[0]
    assert not runs.exists()


@pytest.mark.slow
def test_a_run_that_fits_is_made(
    small_config: Callable[..., DMDConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the quick count is too much and the exact one is not; and a CPU's is not looked at."""
    asked: list[str] = []

    def free(device: str) -> int:
        asked.append(device)
        config = small_config()
        module = build_module(config, load_data(config))
        bounds = [plan_of(config, module, 1, exact).need.total for exact in (True, False)]
        assert bounds[0] < bounds[1]
        return int(sum(bounds) / 2)

    monkeypatch.setattr(preparation, "free_memory", free)
    prepared = preparation.prepare(small_config(), "cpu", 1)
    prepared.require()
    assert asked == ["cpu"]
    monkeypatch.undo()
    assert preparation.free_memory("cpu") is None
    prepared.require()
