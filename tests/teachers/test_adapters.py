"""One frozen network and its adapters; each of peft's silent failures by a test that it fails."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from torch.func import functional_call

from carv_distill.distillation.memory.footprint import LiveBytes
from carv_distill.engine.optimisation import ParameterVector
from carv_distill.errors import UserError
from carv_distill.teachers.adapters import SharedNetwork, matching_layers
from carv_distill.teachers.low_rank import PROJECTIONS, LowRankOptions
from tests.helpers.adapted import NAMES, Wrapped, inputs, network, on_cuda, shared_network
from tests.helpers.small import ROOT

FAMILIES = {"unet": 4 * 10, "sd3": 12 + 9, "flux": 12 + 5, "pixart": 10, "wan": 10}
"""Layers with adapters: a block with self- and cross-attention has 4 + 4 + 2; one of two streams 4 + 4 + 2 +
2, SD3's last without 1 + 2 of them; Flux's single one 3 + 2."""


def exact_gradient(shared: SharedNetwork, name: str, kind: str = "unet") -> tuple[Tensor, list[Tensor]]:
    """F and the gradient of Σ F² by A and B, without peft: the plain network at W + (α/r) B A."""
    plain = network(kind).double()
    options = shared.layers[next(iter(shared.layers))]
    scale = options.scaling[name]
    leaves = [p.detach().clone().requires_grad_(True) for p in shared.parameters(name)]
    weights = dict(plain.state_dict())
    for layer, a, b in zip(shared.layers, leaves[::2], leaves[1::2], strict=True):
        weights[f"unet.{layer}.weight"] = weights[f"unet.{layer}.weight"] + scale * b @ a
    out = functional_call(plain, weights, inputs(kind, torch.float64))
    return out.detach(), list(torch.autograd.grad(out.square().sum(), leaves))


def gradients(shared: SharedNetwork, name: str) -> list[Tensor | None]:
    return [p.grad for p in shared.parameters(name)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_begins_as_the_teacher(kind: str) -> None:
    """All views equal the plain network bit for bit; the default patterns find attention and feed-forward."""
    plain, given = network(kind).eval().requires_grad_(False), inputs(kind)  # frozen: another kernel on a CPU
    shared = SharedNetwork(network(kind), LowRankOptions(), NAMES, seed=1, key="dmd.adapters")
    with torch.no_grad():
        expected = plain(*given)
        for name in (*NAMES, None):
            assert torch.equal(shared.view(name)(*given), expected)
    assert len(shared.layers) == FAMILIES[kind]
    ends = {name.split("transformer_blocks.")[-1].split(".", 1)[-1] for name in shared.layers}
    assert not any("norm" in end or "embed" in end for end in ends)
    assert sum(p.numel() for p in shared.view("student").parameters()) == sum(
        16 * sum(layer.get_base_layer().weight.shape) for layer in shared.layers.values()
    )


def test_single_blocks_of_flux_have_adapters_and_its_last_layer_has_none() -> None:
    layers = shared_network("flux").layers
    assert "single_transformer_blocks.0.proj_out" in layers
    assert "single_transformer_blocks.0.proj_mlp" in layers
    assert "proj_out" not in layers


def test_weights_come_from_the_seed_alone() -> None:
    """A ~ U(−1/√n, 1/√n), the same for all adapters, another for another seed, and no global state."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        SharedNetwork(network(), LowRankOptions(), NAMES, seed, "dmd.adapters") for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name in NAMES:
        a, b = first.parameters(name)[::2], first.parameters(name)[1::2]
        assert all(map(torch.equal, a, first.parameters("student")[::2]))
        assert all(map(torch.equal, a, again.parameters(name)[::2]))
        assert not any(map(torch.equal, a, other.parameters(name)[::2]))
        assert not any(p.any() for p in b)
        for p in a:  # Var = 1/(3 n); the standard error of the mean square is below 12 % for 16 × 8 values
            assert p.abs().max() <= p.shape[1] ** -0.5
            assert abs(3 * p.shape[1] * p.square().mean() - 1) < 0.4


Order = Callable[[SharedNetwork, Tensor], None]
GIVEN = inputs("unet", torch.float64)


def nothing(shared: SharedNetwork, out: Tensor) -> None:
    out.square().sum().backward()


def others_between(shared: SharedNetwork, out: Tensor) -> None:
    fake = shared.view("fake")(*GIVEN)
    with torch.no_grad():
        shared.view(None)(*GIVEN)
    out.square().sum().backward()
    fake.square().sum().backward()


def others_first(shared: SharedNetwork, out: Tensor) -> None:
    shared.view("fake")(*GIVEN).square().sum().backward()
    shared.view("average")(*GIVEN)
    out.square().sum().backward()


def together(shared: SharedNetwork, out: Tensor) -> None:
    fake = shared.view("fake")(*GIVEN)
    (fake.square().sum() + out.square().sum()).backward()


def inside_another(shared: SharedNetwork, out: Tensor) -> None:
    with shared.active("fake"):
        out.square().sum().backward()
        shared.view(None)(*GIVEN)
        nested = shared.network(*GIVEN)
    nested.square().sum().backward()


ORDERS = (nothing, others_between, others_first, together, inside_another)


@pytest.mark.parametrize(
    "checkpointing",
    [pytest.param(False, marks=pytest.mark.slow, id="plain"), pytest.param(True, id="checkpointed")],
)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_gradients_are_exact_in_every_order(order: Order, checkpointing: bool) -> None:
    """Of the student's adapter, and of the fake score's where it was called too; the base has none."""
    shared = shared_network(rank=3, alpha=6)
    if checkpointing:
        shared.enable_gradient_checkpointing()
    out = shared.view("student")(*GIVEN)
    order(shared, out)
    for name in ("student",) if order is nothing else ("student", "fake"):
        expected, exact = exact_gradient(shared, name)
        torch.testing.assert_close(shared.view(name)(*GIVEN), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients(shared, name), exact, rtol=1e-9, atol=1e-9)
    assert gradients(shared, "average") == [None] * 2 * len(shared.layers)
    assert not any(p.grad is not None for n, p in shared.network.named_parameters() if ".lora_" not in n)


def test_gradients_of_a_transformer_are_exact_under_checkpointing() -> None:
    """SD3's blocks give two tensors each, the last one None and a tensor."""
    shared = shared_network("sd3", rank=2)
    shared.enable_gradient_checkpointing()
    given = inputs("sd3", torch.float64)
    out, fake = (shared.view(name)(*given) for name in ("student", "fake"))
    (out.square().sum() + fake.square().sum()).backward()
    for name in ("student", "fake"):
        _, exact = exact_gradient(shared, name, "sd3")
        torch.testing.assert_close(gradients(shared, name), exact, rtol=1e-9, atol=1e-9)


def test_pefts_own_switch_would_drop_the_gradients() -> None:
    """What the views avoid: without it the test of every order would prove nothing."""
    shared = shared_network()
    out = shared.view("student")(*GIVEN)
    for layer in shared.layers.values():
        layer.set_adapter("fake")
    assert not out.requires_grad or not any(p.requires_grad for p in shared.parameters("student"))
    out.square().sum().backward()
    assert gradients(shared, "student") == [None] * 2 * len(shared.layers)


def test_diffusers_own_checkpointing_would_recompute_with_the_wrong_adapter() -> None:
    """The same of checkpointing; a network that had it before it was shared gets ours."""
    wrong, right = shared_network(), network().double()
    wrong.model.enable_gradient_checkpointing()
    right.unet.enable_gradient_checkpointing()
    shared = SharedNetwork(right, LowRankOptions(), NAMES, seed=1, key="dmd.adapters")
    for name in NAMES:
        for ours, theirs in zip(shared.parameters(name), wrong.parameters(name), strict=True):
            ours.data.copy_(theirs)
    _, exact = exact_gradient(wrong, "student")
    for network_, equal in ((wrong, False), (shared, True)):
        out = network_.view("student")(*GIVEN)
        with network_.active("fake"):
            out.square().sum().backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in network_.parameters("student")]
        error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))
        assert (error < 1e-9) is equal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_a_half_precision_base_are_float32(dtype: torch.dtype) -> None:
    """The base stays frozen in its precision, bit for bit; an adapter's change of 1e-4 of itself is kept."""
    shared, original = shared_network(dtype=dtype), network().to(dtype).state_dict()
    assert {p.dtype for name in NAMES for p in shared.parameters(name)} == {torch.float32}
    view = shared.view("student")
    out = view(*inputs("unet", dtype))
    assert out.dtype == dtype
    out.float().square().sum().backward()
    optimizer = torch.optim.SGD(view.parameters(), lr=1e-4)
    before = [p.detach().clone() for p in view.parameters()]
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in view.parameters()
    )
    for p in view.parameters():
        p.grad = p.detach().clone()
    optimizer.step()
    for p, old in zip(view.parameters(), before, strict=True):
        torch.testing.assert_close(p - old, -1e-4 * old, rtol=2e-2, atol=1e-9)
    for name, p in shared.network.named_parameters():
        if ".lora_" not in name:
            assert not p.requires_grad
            assert torch.equal(p, original[name.replace(".base_layer.", ".")])
    assert {p.dtype for name, p in shared.network.named_parameters() if ".lora_" not in name} == {dtype}


def test_autograd_grad_over_a_views_parameters() -> None:
    """It meets no frozen weight, as it would over those of the network; views share no parameter."""
    shared = shared_network()
    views = [shared.view(name) for name in NAMES]
    out = views[0](*GIVEN).sum()
    found = torch.autograd.grad(out, list(views[0].parameters()), retain_graph=True)
    assert all(part.any() for part in found)
    with pytest.raises(RuntimeError, match=r"not require grad|not have been used"):
        torch.autograd.grad(out, list(shared.network.parameters()))
    assert list(map(id, views[0].parameters())) == list(map(id, shared.parameters("student")))
    assert len({id(p) for view in views for p in view.parameters()}) == 6 * len(shared.layers)


def test_a_frozen_average_leaves_the_others_learning() -> None:
    shared = shared_network()
    average = shared.view("average").requires_grad_(False)
    assert not average(*GIVEN).requires_grad
    assert shared.view("student")(*GIVEN).requires_grad
    assert not shared.view(None)(*GIVEN).requires_grad


def test_dropout_does_nothing() -> None:
    """A model with dropout that comes in training mode is in eval mode once it is shared."""
    model = network("unet", dropout=0.5).double().train()
    shared = SharedNetwork(model, LowRankOptions(), NAMES, seed=1, key="dmd.adapters")
    view = shared.view("student")
    assert not any(module.training for module in shared.network.modules())
    assert torch.equal(view(*GIVEN), view(*GIVEN))


def test_parameters_survive_as_views_of_a_vector() -> None:
    """An optimiser of the vector moves the adapter in the network; the gradient arrives in the vector."""
    shared = shared_network()
    _, exact = exact_gradient(shared, "student")
    vector = ParameterVector(shared.parameters("student"))
    other = ParameterVector(shared.parameters("fake"))
    shared.view("student")(*GIVEN).square().sum().backward()
    vector.collect_gradient()
    expected = torch.cat([part.flatten() for part in exact])
    torch.testing.assert_close(vector.theta.grad, expected, rtol=1e-9, atol=1e-9)
    fake = shared.view("fake")(*GIVEN)
    torch.optim.SGD([vector.theta], lr=1e-3).step()
    expected, _ = exact_gradient(shared, "student")
    torch.testing.assert_close(shared.view("student")(*GIVEN), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shared.merged("student")(*GIVEN), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(shared.view("fake")(*GIVEN), fake)
    assert other.theta.numel() == vector.theta.numel()


def test_a_view_is_a_raw_network() -> None:
    """Its encoder has the adapter too; what else is asked of it the network answers, and errors pass."""
    shared = shared_network()
    student, teacher = shared.view("student"), shared.view(None)
    (of_student,), (of_teacher,) = student.encoder(*GIVEN), teacher.encoder(*GIVEN)
    (expected,) = shared.merged("student").encoder(*GIVEN)  # type: ignore[operator]
    torch.testing.assert_close(of_student, expected, rtol=1e-10, atol=1e-10)
    assert not torch.equal(of_student, of_teacher)
    assert student.label == "the raw network's own"
    assert student.unet is shared.model
    with pytest.raises(AttributeError, match="colour"):
        _ = student.colour
    with pytest.raises(TypeError), shared.active("student"):
        teacher(*GIVEN, 1)  # type: ignore[call-arg]
    assert torch.equal(teacher(*GIVEN), shared.network(*GIVEN))


def test_a_call_that_fails_leaves_no_adapter_active() -> None:
    shared = shared_network()
    expected = shared.network(*GIVEN)
    with pytest.raises(RuntimeError):
        shared.view("student")(GIVEN[0][:, :1], *GIVEN[1:])
    assert torch.equal(shared.network(*GIVEN), expected)


def test_the_state_of_a_view_has_pefts_keys() -> None:
    """Just its adapter's tensors, which another network takes; the teacher's holds the frozen weights."""
    shared, other = shared_network(), shared_network(spread=0)
    state = shared.view("student").state_dict()
    theirs = get_peft_model_state_dict(shared.model, adapter_name="student")
    assert {key.removeprefix("adapter.") for key in state} == set(theirs)
    other.view("student").load_state_dict(state)
    assert torch.equal(other.view("student")(*GIVEN), shared.view("student")(*GIVEN))
    assert not torch.equal(other.view("fake")(*GIVEN), shared.view("fake")(*GIVEN))
    assert {key.removeprefix("base.") for key in shared.view(None).state_dict()} == set(
        shared.network.state_dict()
    )


def test_modules_that_hold_views_move_the_network_once() -> None:
    """Weights stay shared by all views when the module that has them changes its device or type."""
    shared = shared_network(dtype=torch.float32)
    holder = nn.ModuleList([shared.view(name) for name in (*NAMES, None)]).double()
    assert sum(p.numel() for p in holder.parameters()) == sum(p.numel() for p in shared.network.parameters())
    expected, _ = exact_gradient(shared, "student")
    plain = shared.merged("student")
    torch.testing.assert_close(holder[0](*GIVEN), plain(*GIVEN), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(holder[0](*GIVEN), expected, rtol=1e-5, atol=1e-5)


def test_a_deep_copy_is_whole() -> None:
    """A copied view switches its own network, checkpoints included; the original stays as it was."""
    shared = shared_network()
    shared.enable_gradient_checkpointing()
    expected, exact = exact_gradient(shared, "student")
    copied = copy.deepcopy(shared.view("student"))
    with torch.no_grad():
        for p in shared.parameters("student"):
            p.zero_()
    out = copied(*GIVEN)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    copied.shared.view("fake")(*GIVEN)
    out.square().sum().backward()
    torch.testing.assert_close([p.grad for p in copied.parameters()], exact, rtol=1e-9, atol=1e-9)
    assert gradients(shared, "student") == [None] * 2 * len(shared.layers)


@pytest.mark.parametrize("name", [pytest.param("student", marks=pytest.mark.slow), None])
def test_merged_is_the_view_without_peft(name: str | None, tmp_path: Path) -> None:
    """A plain network of diffusers that computes as the view, shares nothing, and is saved and loaded."""
    shared = shared_network(rank=2, alpha=3)
    shared.enable_gradient_checkpointing()
    view = shared.view(name)
    expected = view(*GIVEN)
    plain = shared.merged(name)
    torch.testing.assert_close(plain(*GIVEN), expected, rtol=1e-10, atol=1e-10)
    assert list(plain.state_dict()) == list(network().state_dict())
    assert not any("lora" in type(module).__module__ for module in plain.modules())
    assert not hasattr(plain.unet, "peft_config")
    mine = {p.data_ptr() for p in shared.network.parameters()}
    assert not mine & {p.data_ptr() for p in plain.parameters()}
    assert torch.equal(view(*GIVEN), expected)
    view.save(tmp_path)
    loaded = Wrapped(UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.float64))
    torch.testing.assert_close(loaded(*GIVEN), expected, rtol=1e-10, atol=1e-10)
    learner = view.trainable_copy()
    assert all(p.requires_grad for p in learner.parameters())
    learner(*GIVEN).square().sum().backward()
    assert all(p.grad is None for p in shared.network.parameters())


def test_merged_weights_of_a_bfloat16_base_are_float32() -> None:
    """An adapter of 1e-4 of the weights is lost in bfloat16 and kept in float32, the default."""
    shared = shared_network(dtype=torch.bfloat16, spread=0.01)
    state, rounded = shared.merged_state("student"), shared.merged_state("student", torch.bfloat16)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert {value.dtype for value in rounded.values()} == {torch.bfloat16}
    for name, layer in shared.layers.items():
        a, b = layer.lora_A["student"].weight, layer.lora_B["student"].weight
        base = layer.get_base_layer().weight.float()
        torch.testing.assert_close(state[f"unet.{name}.weight"] - base, b @ a, rtol=1e-3, atol=1e-7)
    assert {p.dtype for p in shared.merged("student").parameters()} == {torch.float32}
    assert {p.dtype for p in shared.merged(None, torch.float64).parameters()} == {torch.float64}


@pytest.mark.slow
def test_merging_takes_no_copy_on_the_networks_device() -> None:
    """Of a network on a GPU, without memory: the copy is on the CPU, and beside it there are never more than
    a few layers' numbers."""
    shared = on_cuda(shared_network(dtype=torch.bfloat16).view("student")).shared
    with LiveBytes() as live:
        state = shared.merged("student").state_dict().values()
    merged, largest = sum(t.nbytes for t in state), max(t.nbytes for t in state)
    assert {t.device.type for t in state} == {"cpu"}
    assert merged == sum(4 * p.numel() for p in network().parameters())
    assert live.peak <= merged + 4 * largest
    assert 4 * largest < merged / 2


def test_a_switch_walks_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = shared_network()

    def walk(self: nn.Module, *_: Any) -> None:
        raise AssertionError("a walk of the tree")

    for method in ("modules", "named_modules", "parameters", "named_parameters", "get_submodule"):
        monkeypatch.setattr(nn.Module, method, walk)
    with shared.active("student"), shared.active(None), shared.active("fake"):
        assert all(layer.active_adapters is shared._active for layer in shared.layers.values())
        assert shared._active == ["fake"]
    assert shared._active == []


def full_and_adapted_bytes(rank: int) -> tuple[int, int]:
    """Bytes of weights, gradients, Adam's moments and averages after an update of student and fake score, of
    the shipped miniature: every network whole, and as adapters."""

    def load() -> Wrapped:
        return Wrapped(UNet2DConditionModel.from_pretrained(ROOT / "checkpoints/shapes-teacher/unet"))

    def kept(learning: list[list[nn.Parameter]], frozen: list[nn.Parameter]) -> int:
        total = sum(p.nbytes for p in frozen)
        for parameters in learning:
            vector = ParameterVector(parameters)
            optimizer = torch.optim.AdamW([vector.theta])
            vector.collect_gradient()
            optimizer.step()
            moments = optimizer.state[vector.theta]
            assert vector.theta.grad is not None
            total += vector.theta.nbytes + vector.theta.grad.nbytes
            total += moments["exp_avg"].nbytes + moments["exp_avg_sq"].nbytes
        return total

    teacher, student, average, fake = (list(load().parameters()) for _ in range(4))
    full = kept([student, fake], [*teacher, *average])
    shared = SharedNetwork(load(), LowRankOptions(rank=rank), NAMES, seed=1, key="dmd.adapters")
    base = [p for name, p in shared.network.named_parameters() if ".lora_" not in name]
    learning = [shared.parameters("student"), shared.parameters("fake")]
    return full, kept(learning, [*base, *shared.parameters("average")])


def test_bytes_are_at_most_two_fifths_of_full_training() -> None:
    """At the default rank: (P + 9 a)/(10 P) for P weights and a of an adapter, 0.24 on the miniature."""
    full, adapted = full_and_adapted_bytes(LowRankOptions().rank)
    parameters, adapter = 1_055_044, 164_864
    assert full == 4 * 10 * parameters
    assert adapted == 4 * (parameters + 9 * adapter)
    assert adapted <= 0.40 * full


@pytest.mark.parametrize(
    ("targets", "named", "near"),
    [
        (["to_q", "to_kk"], "'to_kk' matches no", "to_k"),
        (["attn1"], "'attn1' matches no", "to_q"),  # a block, not a layer
        (["o_q"], "'o_q' matches no", "to_q"),  # the end of a name, but not from a dot on
        (["norm1", "ff.net.9"], "'norm1', 'ff.net.9' matches no", "linear_1"),
        ([""], "'' matches no", "to_q"),
        ([], "an empty list matches no", "to_q"),
    ],
)
def test_targets_that_match_nothing(targets: list[str], named: str, near: str) -> None:
    with pytest.raises(UserError, match=r"^dmd.adapters.targets: ") as error:
        SharedNetwork(network(), LowRankOptions(targets=targets), NAMES, seed=1, key="dmd.adapters")
    message = str(error.value)
    assert named in message
    assert "UNet2DConditionModel" in message
    assert near in message
    assert "\n" not in message


def test_a_network_without_attention_says_so() -> None:
    """None of the default patterns matches; all are named, and layers that there are."""
    model = UNet2DModel(
        8, 1, 1, block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), add_attention=False, layers_per_block=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'to_q', .*UNet2DModel; .*time_emb_proj"):
        matching_layers(model, PROJECTIONS, "dmd.adapters")


def test_convolutions_and_wildcards_are_targets() -> None:
    """conv1 of every resnet; gradient and merged weights of a convolution are those of the view."""
    shared = shared_network(targets=["resnets.*.conv1", "down_blocks.*.to_q"])
    assert len(shared.layers) == 5 + 2
    shared.view("student")(*GIVEN).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in shared.parameters("student"))
    merged = shared.merged("student")
    torch.testing.assert_close(merged(*GIVEN), shared.view("student")(*GIVEN), rtol=1e-10, atol=1e-10)


def test_a_rank_beyond_the_layers_width_is_no_fault() -> None:
    """More than the layer can use, but right: gradients are exact."""
    shared = shared_network(rank=40)
    shared.view("student")(*GIVEN).square().sum().backward()
    _, exact = exact_gradient(shared, "student")
    torch.testing.assert_close(gradients(shared, "student"), exact, rtol=1e-9, atol=1e-8)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^dmd.adapters: low-rank adapters: .*carv-distill\[text-to-image\]"):
        SharedNetwork(network(), LowRankOptions(), NAMES, seed=1, key="dmd.adapters")


def test_checkpointing_that_a_network_has_not() -> None:
    shared = shared_network()
    shared.model._supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"^gradient checkpointing: .*UNet2DConditionModel has none"):
        shared.enable_gradient_checkpointing()
