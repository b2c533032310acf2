"""Gradients by backward with hooks against those by vmap, and against losses written by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure import peak_bytes
from carv_distill.attribution.features.pilot import pilot_sampler
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import JoinedSum, build_projector
from carv_distill.attribution.gradients.sample_gradients import (
    SampleGradients,
    attribution_pipeline,
    sample_features,
)
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, stream
from carv_distill.errors import UserError
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.low_rank import LowRankOptions
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule, NoiseSchedule
from tests.helpers.linear import SCHEDULE, Linear, Plain, linear_gradients
from tests.helpers.tiny_pipelines import EVERY, SIZES
from tests.helpers.tiny_unet import tiny_unet

PROMPTS = ["a red torus", "a cube"]
Case = tuple[NetworkDenoiser, NoiseSchedule, Tensor, Cond, Draws]


def teacher(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> TextTeacher:
    loaded = load_text_teacher(EVERY[name](folder / f"{name}-{dtype}"), SIZES.get(name, ()))
    return loaded.double() if dtype == torch.float64 else loaded


def case_of(folder: Path, name: str, dtype: torch.dtype) -> Case:
    """Two samples with conditions, two groups of three draws with weights."""
    g = stream("case")
    if name == "unet":
        unet = tiny_unet(labels=5, add_attention=True, attention_head_dim=4).to(dtype).eval()
        denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning())
        shape: tuple[int, ...] = (1, 8, 8)
        schedule: NoiseSchedule = EDMSchedule(0.05, 5.0)
        cond: Cond = torch.tensor([1, 4])
    else:
        loaded = teacher(folder, name, dtype)
        denoiser, schedule, shape = loaded.denoiser, loaded.schedule, tuple(loaded.shape)
        cond = loaded.prompts(PROMPTS).to(dtype)
    u = torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.7, 0.05]], dtype=dtype)
    weight = torch.tensor([[1.0, 0.5, 2.0], [0.8, 1.0, 1.2]], dtype=dtype)
    eps = torch.randn(2, 3, *shape, generator=g, dtype=dtype)
    return denoiser, schedule, torch.randn(2, *shape, generator=g, dtype=dtype), cond, Draws(u, weight, eps)


def error(found: Tensor, exact: Tensor) -> float:
    """Largest relative error of a row."""
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


@pytest.fixture
def _double_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan's layers cast to float32 inside whatever they are given; here only what is narrower."""
    cast = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda t, *a: t if t.dtype == torch.float64 else cast(t, *a))


@pytest.mark.usefixtures("_double_throughout")
@pytest.mark.parametrize("name", ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sd", "wan"))])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float32, 2e-6, marks=pytest.mark.slow), (torch.float64, 1e-12)],
)
def test_both_back_ends_give_the_same_features(
    tmp_path: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Joined and projected, of groups and of single draws, all at once and in chunks, with and without
    checkpointing. In float32 either is up to 1e-6 from float64 by its own order of sums (of the UNet 8e-7),
    so that two of them are up to 2e-6 apart. Rounding adds up to more in a dense projection, a sum of d
    products, and in a single draw: there five times the tolerance."""
    denoiser, schedule, x, cond, draws = case_of(tmp_path, name, dtype)
    loss = SampleLoss(denoiser, schedule)
    vmapped, backward = VmapGradients(loss), BackwardGradients(loss)
    batch, shared = SampleBatch(x, cond), draws.row(0)
    few = shared.u[:2], shared.eps[:2]
    exact = vmapped(batch, shared)
    assert error(backward(batch, shared), exact) < tolerance
    for kind, mean in (("countsketch", tolerance), ("gaussian", 5 * tolerance)):
        begin = partial(build_projector(kind, 64, 1).begin, vmapped.loss.layout)
        features = vmapped(batch, shared, begin)
        apart = vmapped.of_draws(batch, *few, begin)
        for other in (backward, BackwardGradients(loss, checkpointing=True)):
            assert error(other(batch, shared, begin), features) < mean
            assert error(other(batch, shared, begin, chunk=2), features) < mean
            assert error(other.of_draws(batch, *few, begin), apart) < 5 * tolerance
    assert features.dtype == dtype


@pytest.mark.parametrize("normalise", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_features_in_groups_and_normalised_draws(tmp_path: Path, normalise: bool) -> None:
    denoiser, schedule, x, cond, draws = case_of(tmp_path, "unet", torch.float64)
    loss, projector = SampleLoss(denoiser, schedule), build_projector("countsketch", 64, 1)
    found = [
        sample_features(kind(loss), projector, SampleBatch(x, cond), draws, chunk, normalise)
        for kind in (VmapGradients, BackwardGradients)
        for chunk in (None, 1)
    ]
    assert found[0].shape == (2, 2, 64)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6 * float(found[0].abs().max()))
    if normalise:
        whole = VmapGradients(loss)
        begin = partial(projector.begin, whole.loss.layout)
        mean = torch.zeros(2, 64, dtype=torch.float64)
        for k in range(3):
            draw = draws.row(1)[k : k + 1]
            norm = whole(SampleBatch(x, cond), draw).norm(dim=1, keepdim=True)
            mean += draws.weight[1, k] / 3 * whole(SampleBatch(x, cond), draw, begin) / norm
        torch.testing.assert_close(found[2][:, 1].double(), mean, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_never_whole_and_checkpointing_keeps_less(tmp_path: Path) -> None:
    """Of what is held at the arrival of each gradient; and of a step's activations."""
    denoiser, schedule, x, cond, draws = case_of(tmp_path, "wan", torch.float32)
    alive: list[int] = []

    class Watched(JoinedSum):
        def add(self, name: str, gradient: Tensor) -> None:
            alive.append(
                gradient.nbytes + sum(p.grad.nbytes for p in denoiser.parameters() if p.grad is not None)
            )

    gradients = BackwardGradients(SampleLoss(denoiser, schedule))
    layout, arguments = gradients.loss.layout, (SampleBatch(x, cond), draws.row(0))
    gradients(*arguments, lambda rows: Watched(layout, rows))
    assert len(alive) == 2 * len(layout.sizes)
    assert max(alive) == 4 * max(layout.sizes.values()) < 0.2 * 4 * layout.dimension

    begin = partial(build_projector("countsketch", 16).begin, layout)
    many = Draws(*(t.repeat(1, 20, *[1] * (t.ndim - 2)) for t in (draws.u, draws.weight, draws.eps)))
    step = (SampleBatch(x[:1], cond[:1]), many.row(0), begin)
    thrifty = BackwardGradients(SampleLoss(denoiser, schedule), checkpointing=True)
    peaks = [peak_bytes(lambda g=g: g(*step)) for g in (gradients, thrifty)]
    by_draw = peak_bytes(lambda: gradients(*step, 6))
    assert peaks[1] < 0.85 * peaks[0]  # of two blocks
    assert by_draw < 0.2 * peaks[0]


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_it_was(tmp_path: Path, fails: bool) -> None:
    """Flags, hooks, gradients, checkpointing, weights; also after an exception in the midst of a backward."""
    denoiser, schedule, x, cond, draws = case_of(tmp_path, "unet", torch.float32)
    parameters = dict(denoiser.named_parameters())
    first = next(iter(parameters.values()))
    first.grad = torch.ones_like(first)
    for name, p in parameters.items():
        p.requires_grad_("conv" in name)

    def state() -> list[object]:
        return [
            [
                (p.requires_grad, p.grad is None, len(p._post_accumulate_grad_hooks or ()))
                for p in parameters.values()
            ],
            [
                m.is_gradient_checkpointing
                for m in denoiser.modules()
                if hasattr(m, "is_gradient_checkpointing")
            ],
            torch.is_grad_enabled(),
        ]

    before, weights = state(), [p.detach().clone() for p in parameters.values()]
    gradients = BackwardGradients(SampleLoss(denoiser, schedule), checkpointing=True)

    class Broken(JoinedSum):
        def add(self, name: str, gradient: Tensor) -> None:
            if "mid_block" in name and fails:
                raise KeyError(name)
            super().add(name, gradient)

    def run() -> Tensor:
        with torch.no_grad():  # as the pilot does
            return gradients(
                SampleBatch(x, cond), draws.row(0),
                lambda rows: Broken(gradients.loss.layout, rows),
            )  # fmt: skip

    if fails:
        with pytest.raises(KeyError):
            run()
    else:
        assert run().norm() > 0
    assert state() == before
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(torch.equal(p, w) for p, w in zip(parameters.values(), weights, strict=True))


def test_parameters_without_a_part_have_gradient_zero() -> None:
    """As by vmap: where one plays none, and where none does."""

    class Half(Linear):
        def __init__(self) -> None:
            super().__init__(torch.eye(3, dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    denoiser, x = NetworkDenoiser(Half(), Plain()), torch.ones(2, 3, dtype=torch.float64)
    draw = Draws(torch.tensor([0.5]).double(), torch.ones(1).double(), torch.ones(1, 3).double())
    for patterns in (("*",), ("unused",)):
        loss = SampleLoss(denoiser, SCHEDULE, patterns)
        found = [kind(loss)(SampleBatch(x), draw) for kind in (VmapGradients, BackwardGradients)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-14, atol=0)


def backward_of(dim: int = 3) -> BackwardGradients:
    return BackwardGradients(linear_gradients(dim).loss)


def test_a_zero_gradient_cannot_be_normalised_and_one_that_is_not_finite_is_named() -> None:
    gradients = backward_of()
    for parameter in gradients.loss.chosen.values():
        parameter.data.zero_()
    x = torch.ones(3, 3, dtype=torch.float64)
    x[1] = 0
    one = torch.ones(1, 1, dtype=torch.float64)
    draws = Draws(one / 2, one, torch.ones(1, 1, 3, dtype=torch.float64))
    whole = build_projector("none", 1)
    with pytest.raises(UserError, match=r"^sample 5: a draw's gradient is zero .*--normalise mean"):
        sample_features(gradients, whole, SampleBatch(x), draws, normalise_draws=True, first=4)
    x[2, 0] = torch.inf
    pipeline = attribution_pipeline(gradients, build_projector("countsketch", 8), SampleBatch(x))
    with pytest.raises(UserError, match=r"^training sample 2: its gradient holds NaN or infinity$"):
        pilot_sampler(pipeline, 4, 0, torch.device("cpu"))


@pytest.mark.slow
def test_the_pilot_chooses_alike(tmp_path: Path) -> None:
    denoiser, schedule, x, cond, _ = case_of(tmp_path, "unet", torch.float64)
    kinds: list[Callable[..., SampleGradients]] = [VmapGradients, BackwardGradients]
    loss, projector = SampleLoss(denoiser, schedule), build_projector("countsketch", 32)
    chosen = [
        pilot_sampler(
            attribution_pipeline(kind(loss), projector, SampleBatch(x, cond), 4),
            4, 0, torch.device("cpu"), samples=2, bins=4,
        )
        for kind in kinds
    ]  # fmt: skip
    assert (chosen[0].strategy, chosen[0].noise) == (chosen[1].strategy, chosen[1].noise)
    torch.testing.assert_close(chosen[0].proposal.mass, chosen[1].proposal.mass, rtol=1e-9, atol=0)


def test_dropout_in_training_mode_is_refused() -> None:
    class Random(Linear):
        def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
            return torch.dropout(super().forward(x, c_noise, cond), 0.5, self.training)

    denoiser = NetworkDenoiser(Random(torch.eye(3)), Plain())
    draw = SampleBatch(torch.ones(1, 3)), Draws(torch.full((1,), 0.5), torch.ones(1), torch.ones(1, 3))
    with pytest.raises(ValueError, match="random numbers of its own"):
        BackwardGradients(SampleLoss(denoiser, SCHEDULE))(*draw)
    BackwardGradients(SampleLoss(denoiser.eval(), SCHEDULE))(*draw)


def test_an_adapter_s_gradient(tmp_path: Path) -> None:
    """Of a network that is shared, by the adapter that is on."""
    loaded = teacher(tmp_path, "sd")
    shared = SharedNetwork(loaded.network, LowRankOptions(rank=2), ["own", "other"], 0, "test")
    denoiser = NetworkDenoiser(shared.view("own"), loaded.denoiser.precondition)
    gradients = BackwardGradients(SampleLoss(denoiser, loaded.schedule, ["lora"]))
    x, cond = torch.randn(1, *loaded.shape, generator=stream("x")), loaded.prompts(PROMPTS[:1])
    draw = Draws(torch.tensor([0.5]), torch.ones(1), torch.randn(1, *loaded.shape, generator=stream("e")))
    found = gradients(SampleBatch(x, cond), draw)
    wanted = shared.parameters("own")
    assert found.shape[1] == sum(p.numel() for p in wanted)
    for p in wanted:
        p.requires_grad_()
    exact = torch.autograd.grad(SampleLoss(denoiser, loaded.schedule)(x[0], cond[0], None, draw), wanted)
    assert error(found[0], torch.cat([g.flatten() for g in exact])) < 1e-5
    assert found.norm() > 0


def test_bf16_weights_are_near(tmp_path: Path) -> None:
    """A Wan's, cast as for a GPU: features stay float32, cosines with those of float32 above 0.98."""
    denoiser, schedule, x, cond, draws = case_of(tmp_path, "wan", torch.float32)
    arguments = (SampleBatch(x, cond), draws.row(0))
    exact = BackwardGradients(SampleLoss(denoiser, schedule))(*arguments)
    near = BackwardGradients(SampleLoss(denoiser, schedule, precision="bf16"))(*arguments)
    network = denoiser.network
    network.cast(torch.bfloat16)  # type: ignore[operator]
    true = BackwardGradients(SampleLoss(denoiser, schedule, precision="bf16-true"))(*arguments)
    for found in (near, true):
        assert found.dtype == torch.float32
        assert not torch.equal(found, exact)
        assert torch.cosine_similarity(found, exact).min() > 0.98
