"""What a distillation takes of a GPU's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carv_distill.distillation.memory.footprint import Bytes, Footprint
from carv_distill.distillation.memory.needs import GIB, LEVERS, Calls, Need, Plan, require_memory, savings
from carv_distill.errors import UserError

SD15, SDXL = 859_520_964, 2_567_463_684
FOOTPRINT = Footprint(Bytes(0, GIB // 10), Bytes(GIB, 2 * GIB), Bytes(GIB, 3 * GIB), 10, 30)
CHECKPOINTED = Footprint(Bytes(0, GIB // 10), Bytes(0, GIB // 5), Bytes(0, GIB), 10, 40)
CALLS = Calls(FOOTPRINT, CHECKPOINTED, upstream=4, draws=2, fake_batch=2, guided=True)


def without_transient(plan: Plan) -> float:
    return plan.need.state / GIB


@pytest.mark.parametrize(
    ("parameters", "adapter", "lora", "gibibytes"),
    [
        (SD15, None, False, 30.4),
        (SD15, 23_937_024, True, 2.4),
        (SDXL, None, False, 90.9),
        (SDXL, 167_444_480, True, 10.4),
    ],
)
def test_published_networks(parameters: int, adapter: int | None, lora: bool, gibibytes: float) -> None:
    plan = Plan(parameters, adapter, lora=lora, frozen_bits=16)
    assert round(without_transient(plan), 1) == gibibytes


def test_every_part_of_a_whole_network() -> None:
    need = Plan(1000, averages=3, beside=7).need
    expected = Need(
        frozen=4000, weights=8000, averages=12000, gradients=8000, optimiser=16000, transient=4000, beside=7
    )
    assert need == expected
    assert need.total == 52007


def test_every_part_of_adapters() -> None:
    need = Plan(1000, 10, lora=True, frozen_bits=16).need
    expected = Need(frozen=2000, weights=80, averages=40, gradients=80, optimiser=160, transient=40)
    assert need == expected


def test_adapters_need_their_number() -> None:
    with pytest.raises(ValueError, match="number of parameters"):
        _ = Plan(1000, lora=True).need


def test_averages_in_host_memory_take_nothing_here() -> None:
    assert Plan(1000, averages=5, host_averages=True).need.averages == 0


def test_eight_bits_take_a_byte_per_moment_and_a_scale_per_block() -> None:
    assert Plan(256, optimiser_bits=8).need.optimiser == 2 * 2 * (256 + 4)


@pytest.mark.parametrize("shards", [2, 8, 64])
def test_shards_divide_all_that_stays(shards: int) -> None:
    one, many = Plan(6400, frozen_bits=16).need, Plan(6400, frozen_bits=16, shards=shards).need
    assert many.state == pytest.approx(one.state / shards)


def test_a_sharding_process_gathers_two_blocks() -> None:
    assert Plan(1000, shards=4, block=100).need.transient == 100 * (4 + 4 + 4)
    adapters = Plan(1000, 10, lora=True, frozen_bits=16, shards=4, block=100)
    assert adapters.need.transient == 100 * (2 + 2) + 4 * 10
    assert adapters.need.weights == 8 * 10  # every process has them all
    assert adapters.need.frozen == 2 * 1000 / 4


def test_gradients_of_earlier_shares_wait_whole() -> None:
    assert Plan(1000, shards=4, block=100, accumulate=2).need.transient == 100 * 12 + 4 * 1000
    assert Plan(1000, shards=1, block=100, accumulate=2).need.transient == 4 * 1000


def test_float64_is_twice_as_much() -> None:
    plan = Plan(1000, averages=2, beside=7, calls=CALLS)
    assert replace(plan, double=True).need.total == 2 * plan.need.total


def test_averages_leave_the_device_when_gradients_and_moments_come() -> None:
    """Of 10 averages 40 bytes a parameter lie there at the start, of the others 24 (8 bits: 12)."""
    assert Plan(1000, averages=10, host_averages=True).need.transient == 1000 * (40 - 24)
    assert Plan(1000, averages=2, host_averages=True).need.transient == 4000
    eight = Plan(1024, averages=5, host_averages=True, optimiser_bits=8)
    assert eight.need.transient == 1024 * (20 - 8) - 4 * (1024 + 4 * 4)


@pytest.mark.parametrize(
    ("plan", "without"),
    [
        (Plan(GIB), {"trainer.sharding=fsdp"}),
        (Plan(GIB, processes=2, host_averages=True), {"trainer.sharding=fsdp", "dmd.ema_memory=host"}),
        (Plan(GIB, processes=2, optimiser_bits=8), {"trainer.sharding=fsdp", "dmd.optimiser=adamw_8bit"}),
        (
            Plan(GIB, processes=2, shards=2),
            {"trainer.sharding=fsdp", "dmd.optimiser=adamw_8bit", "dmd.ema_memory=host"},
        ),
        (Plan(GIB, double=True), {"trainer.sharding=fsdp", "dmd.optimiser=adamw_8bit"}),
        (Plan(GIB, processes=2), set()),
    ],
)
def test_what_does_not_go_together_is_not_named(plan: Plan, without: set[str]) -> None:
    alone = {"trainer.sharding=fsdp", "dmd.optimiser=adamw_8bit", "dmd.ema_memory=host"}
    for name in alone:
        changed = LEVERS[name](plan)
        assert (changed is None or changed.need == plan.need) == (name in without), name


def test_gradients_count_as_far_as_the_backward_has_not_freed_as_much() -> None:
    small, large = Plan(1000, calls=CALLS), Plan(10 * GIB, calls=CALLS)
    assert small.need.transient == 0
    assert large.need.transient == 40 * GIB - CALLS.bytes
    assert Plan(1000, calls=CALLS, accumulate=2).need.transient == 4000


def test_the_trace_holds_a_gradient_and_the_mean_of_pairs() -> None:
    """Beside them the second gradient, as a list and as a vector, or activations, whichever are more: 12 p +
    max(8 p, activations) in place of an update's max(4 p, activations)."""
    alone = Plan(1000, traced=True)
    assert alone.need.variance == 1000 * (12 + 4)  # 4 of the second's 8 are transient
    assert alone.need.state == replace(alone, traced=False).need.state
    count = CALLS.bytes // 6  # 4 p < activations < 8 p
    for parameters in (1000, count, 10 * GIB):
        traced = Plan(parameters, calls=CALLS, traced=True)
        peak = traced.need.total - traced.need.state
        assert peak == 12 * parameters + max(8 * parameters, CALLS.bytes)
    assert Plan(1000, traced=True, shards=4, block=100).need.variance == 12 * 250 + 8 * 250 - 1200
    assert Plan(1000, traced=True, double=True).need.variance == 1000 * (8 + 8 + 8)
    assert Plan(GIB // 100, GIB // 1000, traced=True, lora=True).need.variance == 16 * (GIB // 1000)
    assert next(iter(savings(Plan(GIB, traced=True)))) == "variance.every=0"


def test_peak_of_activations() -> None:
    assert CALLS.bytes == (1 + 4 * 3) * GIB  # the student's backward
    residual = Calls(FOOTPRINT, upstream=1, draws=100, guided=True)
    assert residual.bytes == 3 * GIB + 200 * (GIB // 10)  # what it keeps, and the teacher's call
    assert Calls(FOOTPRINT, upstream=1, draws=100, chunk=5, guided=True).bytes == 4 * GIB
    assert Calls(FOOTPRINT, upstream=1, fake_batch=9).bytes == (1 + 9 * 3) * GIB  # the fake score's


def test_checkpointing_takes_its_own_footprint() -> None:
    checkpointed = Calls(FOOTPRINT, CHECKPOINTED, upstream=4, checkpointing=True)
    assert checkpointed.bytes == 4 * GIB
    assert Calls(FOOTPRINT, upstream=4, checkpointing=True).bytes == 13 * GIB


def test_flops_of_an_update() -> None:
    calls = Calls(FOOTPRINT, upstream=3, draws=2, fake_batch=5, fake_updates=4, guided=True)
    student, residual, fake, samples = 3 * 30, 3 * 2 * (1 + 2) * 10, 4 * 5 * 30, 5 * 10
    assert calls.flops == student + residual + fake + samples
    anew = Calls(FOOTPRINT, upstream=3, draws=2, fake_batch=5, fake_updates=4, guided=True, fake_reuse=False)
    assert anew.flops == calls.flops + 3 * samples


def test_savings_are_differences_of_needs_one_after_the_other() -> None:
    plan = Plan(GIB, GIB // 100, calls=CALLS)
    saved = savings(plan)
    assert next(iter(saved)) == "dmd.adapters.kind=lora"
    for setting, count in saved.items():
        others = {name: LEVERS[name](plan) for name in LEVERS}
        most = max(plan.need.total - other.need.total for other in others.values() if other)
        changed = LEVERS[setting](plan)
        assert changed is not None
        assert count == plan.need.total - changed.need.total == most
        plan = changed
    assert saved["teacher.precision=bfloat16"] == 2 * GIB


def test_what_a_plan_has_already_saves_nothing() -> None:
    plan = Plan(GIB, GIB // 100, lora=True, frozen_bits=16, optimiser_bits=8, calls=CALLS)
    saved = savings(plan)
    assert list(saved) == ["dmd.gradient_checkpointing=true", "estimator.upstream=1 dmd.fake_batch=1"]


def test_a_run_that_fits_is_let_through() -> None:
    plan = Plan(GIB)
    require_memory(plan, int(plan.need.total))


def test_a_run_that_does_not_fit_is_one_line() -> None:
    plan = Plan(SDXL, 167_444_480, calls=CALLS)
    with pytest.raises(UserError) as error:
        require_memory(plan, 79 * GIB)
    line = str(error.value)
    assert "\n" not in line
    assert line == (
        "this run needs at least 108.6 GiB of GPU memory (optimiser 38.3, weights 19.1, gradients 19.1, "
        "activations 13.0, frozen 9.6, averages 9.6), and 79.0 are free; what lowers it most, one "
        "after the other: dmd.adapters.kind=lora by 80.5, dmd.gradient_checkpointing=true by 9.0, "
        "teacher.precision=bfloat16 by 4.8, which leaves 14.4"
    )


def test_settings_that_save_nothing_are_not_named() -> None:
    names = ("teacher.precision=bfloat16", "estimator.chunk=1")
    levers = {name: LEVERS[name] for name in names}
    with pytest.raises(UserError, match=r"other: teacher.precision=bfloat16 by 2.0, which leaves 42.0$"):
        require_memory(Plan(GIB), GIB, levers)
    with pytest.raises(UserError, match="no setting lowers it"):
        require_memory(Plan(GIB, frozen_bits=16), GIB, levers)
