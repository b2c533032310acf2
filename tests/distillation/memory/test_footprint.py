"""Bytes and FLOPs of network calls, counted without their memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure import peak_bytes
from benchmarks.memory_checks import MINIATURES, drop_gradients, kept_bytes, shapes_teacher
from benchmarks.published_networks import (
    CLIP_BIG_G,
    FLUX_DEV,
    SD3_MEDIUM,
    SD15,
    SDXL,
    WAN,
    Published,
    adapted_layers,
)
from carv_distill.distillation.memory.footprint import (
    Bytes,
    LiveBytes,
    adapter_count,
    cuda_autocast,
    footprints,
    parameter_count,
    without_memory,
)
from carv_distill.distillation.options import AdapterOptions
from carv_distill.teachers.adapters import SharedNetwork

WIDTH = 32
OTHERS = [*MINIATURES[1:], shapes_teacher()]
ALL = [MINIATURES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]


class MLP(nn.Module):
    """Linear, SiLU, linear, whose bytes one counts by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.silu(self.first(x)))


def call(network: nn.Module, n: int) -> Tensor:
    first = next(network.parameters())
    return network(torch.zeros(n, WIDTH, device=first.device, dtype=first.dtype))


def test_bytes_and_flops_by_hand() -> None:
    with without_memory():
        counted = footprints(MLP(), call)[0]
    row = 4 * WIDTH  # bytes of x, and of the output
    assert counted.kept == Bytes(0, row + 4 * row + 4 * row + row)  # x, before and after SiLU, the output
    assert counted.inference == Bytes(0, row + 4 * row + 4 * row)  # x is not freed before the call ends
    assert counted.inference_flops == 2 * 2 * WIDTH * 4 * WIDTH
    half = counted.inference_flops // 2
    assert counted.training_flops == 6 * half - half  # x takes no gradient


def test_a_frozen_layer_keeps_no_input() -> None:
    with without_memory():
        network = MLP()
        network.second.requires_grad_(False)
        frozen = footprints(network, call)[0]
    assert frozen.kept == Bytes(0, 4 * WIDTH * (1 + 4 + 1))


@pytest.mark.slow
@pytest.mark.parametrize("mini", ALL, ids=lambda mini: mini.name)
def test_checkpointing_is_that_of_a_real_backward(mini: Published) -> None:
    torch.manual_seed(0)
    network = mini.build()
    plain, checkpointed = footprints(network, mini.call)
    assert checkpointed is not None
    network.enable_gradient_checkpointing()
    drop_gradients(network)
    measured = peak_bytes(lambda: mini.call(network, 3).sum().backward())
    assert checkpointed.training(3) == pytest.approx(measured, rel=0.15)
    assert checkpointed.kept(3) < measured < plain.training(3)
    assert checkpointed.training_flops == plain.training_flops + plain.inference_flops
    assert footprints(network, mini.call) == (plain, checkpointed)  # whether it is on or not


def test_a_network_without_blocks_has_no_checkpointing() -> None:
    assert footprints(MLP(), call)[1] is None


def test_a_real_network_stays_as_it_is() -> None:
    network = MLP()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    counted = footprints(network, call)[0]
    with without_memory():
        assert footprints(MLP(), call)[0] == counted
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    call(network, 1).sum().backward()  # no hook is left that takes gradients away
    assert all(p.grad is not None for p in network.parameters())


def test_autocast_keeps_normalisations_in_float32_as_cuda_does() -> None:
    norm = nn.GroupNorm(2, 4)
    with cuda_autocast("cpu", torch.bfloat16):
        assert norm(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    with cuda_autocast("cpu", None):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("mini", ALL, ids=lambda mini: mini.name)
@pytest.mark.parametrize("dtype", [None, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_kept_bytes_are_those_of_real_tensors(mini: Published, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    network = mini.build()
    counted = footprints(network, mini.call, dtype)[0]
    for n in (1, 3):
        with cuda_autocast("cpu", dtype):
            measured = kept_bytes(network, lambda n=n: mini.call(network, n))
        assert counted.kept(n) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("mini", ALL, ids=lambda mini: mini.name)
def test_peak_is_that_of_a_real_backward(mini: Published) -> None:
    torch.manual_seed(0)
    network = mini.build()
    drop_gradients(network)
    counted = footprints(network, mini.call)[0]
    measured = peak_bytes(lambda: mini.call(network, 3).sum().backward())
    assert counted.training(3) == pytest.approx(measured, rel=0.1)


def test_live_bytes_count_a_storage_once_and_till_it_goes() -> None:
    with LiveBytes() as live:
        x = torch.zeros(100)
        y = x.view(10, 10)
        assert live.live == 400
        z = x + 1
        assert live.live == 800
        del x, z
        assert (live.live, live.peak) == (400, 800)
        del y
        assert live.live == 0


@pytest.mark.parametrize(
    ("network", "parameters", "rank_64"),
    [
        (SD15, 859_520_964, 23_937_024),
        (SDXL, 2_567_463_684, 167_444_480),
        (SD3_MEDIUM, 2_028_328_000, 83_755_008),
        (FLUX_DEV, 11_901_408_320, 261_488_640),
        (WAN, 1_418_996_800, 87_490_560),
    ],
    ids=lambda value: value.name if isinstance(value, Published) else "",
)
def test_parameters_of_published_networks(network: Published, parameters: int, rank_64: int) -> None:
    with torch.device("meta"):
        model = network.build()
    layers = adapted_layers(model).values()
    assert parameter_count(model.parameters()) == parameters
    assert adapter_count(layers, 64) == rank_64
    assert adapter_count(layers, 4) * 16 == rank_64


@pytest.mark.parametrize("mini", MINIATURES, ids=lambda mini: mini.name)
def test_adapters_are_counted_as_peft_makes_them(mini: Published) -> None:
    peft = pytest.importorskip("peft")
    with torch.device("meta"):
        model = mini.build()
        layers = adapted_layers(model)
        expected = adapter_count(layers.values(), 4)
        config = peft.LoraConfig(r=4, target_modules=list(layers), bias="none")
        adapted = peft.inject_adapter_in_model(config, model)
    made = [p for name, p in adapted.named_parameters() if ".lora_" in name]
    assert parameter_count(made) == expected > 0


def test_convolutions_count_their_kernel() -> None:
    assert adapter_count([nn.Conv2d(3, 8, 5)], 2) == 2 * (3 * 25 + 8)
    with pytest.raises(TypeError, match="GroupNorm"):
        adapter_count([nn.GroupNorm(1, 1)], 2)


@pytest.mark.slow
def test_a_view_of_shared_adapters() -> None:
    mini, options = MINIATURES[0], AdapterOptions(kind="lora", rank=4)
    shared = SharedNetwork(mini.build(), options, ("student", "fake"), seed=0, key="dmd.adapters")
    both = nn.ModuleList([shared.view("student"), shared.network])

    def view_call(networks: nn.Module, n: int) -> Tensor:
        view = networks[0]  # type: ignore[index]
        with view.shared.active(view.name):
            return mini.call(view.shared.network, n)

    plain, checkpointed = footprints(both, view_call)
    assert checkpointed is not None
    with LiveBytes() as live:
        output = view_call(both, 3)
        assert plain.kept(3) == pytest.approx(live.live, rel=0.02)
    del output
    assert checkpointed.kept(3) < plain.kept(3) / 2


def test_parameters_of_the_largest_clip() -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
    )
    with torch.device("meta"):
        assert parameter_count(CLIPTextModelWithProjection(config).parameters()) == CLIP_BIG_G
