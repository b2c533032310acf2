"""The guidance for threestudio, in a stand-in of the program."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.carv import Draws, NoiseLevelSampler, Proposal
from tests.helpers import threestudio
from tests.helpers.examples import load

NAME = "carv-stable-diffusion-guidance"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return threestudio.save_pipeline(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module", autouse=True)
def program() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        threestudio.install(patch)
        load("integrations/threestudio/threestudio_carv/__init__.py")
        yield


def guidance(folder: Path, **keys: Any) -> Any:
    """As threestudio makes it, from the section `system.guidance`."""
    keys = {"pretrained_model_name_or_path": str(folder), "half_precision_weights": False} | keys
    return threestudio.REGISTRY[NAME](keys)


def theirs(folder: Path, **keys: Any) -> threestudio.StableDiffusionGuidance:
    keys = {"pretrained_model_name_or_path": str(folder), "half_precision_weights": False} | keys
    return threestudio.StableDiffusionGuidance(keys)


def call(guide: Any, views: SimpleNamespace, **flags: bool) -> tuple[dict[str, Any], Tensor]:
    """Result, and the gradient by the render."""
    views.rgb = views.rgb.detach().requires_grad_()
    out = guide(**vars(views), **flags)
    return out, torch.autograd.grad(out["loss_sds"], views.rgb)[0]


def give(monkeypatch: pytest.MonkeyPatch, u: Tensor, weight: Tensor, eps: Tensor) -> None:
    """These draws, whatever is asked for."""
    monkeypatch.setattr(NoiseLevelSampler, "draw", lambda *_, **__: Draws(u, weight, eps))


@pytest.mark.parametrize(
    ("keys", "flags"),
    [
        ({}, {}),
        ({"weighting_strategy": "uniform", "guidance_scale": 7.5}, {}),
        ({"weighting_strategy": "fantasia3d", "view_dependent_prompting": False}, {}),
        ({"min_step_percent": 0.5, "max_step_percent": 0.6}, {"rgb_as_latents": True}),
        ({"guidance_scale": 7.5}, {"perp_neg": True}),
        ({}, {"clip": True}),
    ],
)
def test_one_uniform_draw_is_threestudios(
    monkeypatch: pytest.MonkeyPatch, folder: Path, keys: dict[str, Any], flags: dict[str, bool]
) -> None:
    """At K = 1, uniform, and the same t and noise: loss, norm and the gradient by the pixels, to 1e-6 of the
    largest entry in float32."""
    latents, perp_neg = flags.get("rgb_as_latents", False), flags.get("perp_neg", False)
    views = threestudio.views(1 if perp_neg else 2, channels=4 if latents else 3)
    views.prompt_utils.use_perp_neg = perp_neg
    base, ours = theirs(folder, **keys), guidance(folder, **keys, draws=1, proposal="uniform", strategy="iid")
    base.grad_clip_val = ours.grad_clip_val = 0.5 if flags.get("clip") else None
    torch.manual_seed(2)  # of the encoder's posterior, which both sample first
    expected, gradient = call(base, views, rgb_as_latents=latents)
    t, noise = base.drawn
    u = (t - ours.min_step + 0.5)[:, None] / (ours.max_step - ours.min_step + 1)
    give(monkeypatch, u, torch.ones_like(u), noise[:, None])
    torch.manual_seed(2)
    out, got = call(ours, views, rgb_as_latents=latents)
    assert list(out) == ["loss_sds", "grad_norm", "min_step", "max_step"]
    assert (out["min_step"], out["max_step"]) == (expected["min_step"], expected["max_step"])
    torch.testing.assert_close(out["loss_sds"], expected["loss_sds"], rtol=1e-6, atol=0)
    torch.testing.assert_close(out["grad_norm"], expected["grad_norm"], rtol=1e-6, atol=0)
    assert (got - gradient).abs().max() < 1e-6 * gradient.abs().max()


def float64(guide: Any) -> Any:
    guide.unet.double()
    guide.weights_dtype = torch.float64
    guide.scheduler.alphas_cumprod = guide.alphas = guide.alphas.double()
    return guide


@pytest.mark.parametrize("weighting", ["sds", pytest.param("fantasia3d", marks=pytest.mark.slow)])
def test_two_strata_by_weight_have_threestudios_expectation(
    monkeypatch: pytest.MonkeyPatch, folder: Path, weighting: str
) -> None:
    """Every pair of timesteps that two strata can draw, with its probability, sums up to the mean over all
    timesteps: to 1e-12 in float64, at one noise for both."""
    keys = {"weighting_strategy": weighting, "min_step_percent": 0.1, "max_step_percent": 0.2}
    base, ours = float64(theirs(folder, **keys)), float64(guidance(folder, **keys, draws=2))
    steps = range(ours.min_step, ours.max_step + 1)
    views = threestudio.views(1, channels=4, side=64)
    views.rgb = views.rgb.double()
    views.prompt_utils.text, views.prompt_utils.none = (
        e.double() for e in (views.prompt_utils.text, views.prompt_utils.none)
    )
    eps = torch.randn(1, 1, 4, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def of(*draws: tuple[int, float]) -> Tensor:
        u = torch.tensor([[(t - steps[0] + 0.5) / len(steps) for t, _ in draws]], dtype=torch.float64)
        weight = torch.tensor([[w for _, w in draws]], dtype=torch.float64)
        give(monkeypatch, u, weight, eps.expand(1, len(draws), -1, -1, -1))
        return call(ours, views, rgb_as_latents=True)[1]

    mass = base.weight(torch.tensor(steps)).flatten()
    mass = mass / mass.sum()
    edges = torch.cat([torch.zeros(1), mass.cumsum(0)])
    halves = [  # each timestep's probability in a stratum of v: [0, ½) or [½, 1)
        [max(0.0, min(float(edges[i + 1]), hi) - max(float(edges[i]), lo)) / 0.5 for i in range(len(steps))]
        for lo, hi in ((0.0, 0.5), (0.5, 1.0))
    ]
    omega = [1 / (len(steps) * float(m)) for m in mass]
    mean = torch.zeros_like(views.rgb)
    for i, j in product(range(len(steps)), repeat=2):
        if probability := halves[0][i] * halves[1][j]:
            mean += probability * of((steps[i], omega[i]), (steps[j], omega[j]))
    monkeypatch.setattr(torch, "randn_like", lambda like: eps[0].expand_as(like))
    each = []
    for t in steps:
        monkeypatch.setattr(torch, "randint", lambda low, high, size, t=t: torch.full(size, t))
        each.append(call(base, views, rgb_as_latents=True)[1])
    expected = torch.stack(each).mean(0)
    assert (mean - expected).abs().max() < 1e-12 * expected.abs().max()


def test_its_own_draws_are_threestudios_timesteps(folder: Path) -> None:
    """q ∝ w on exactly the timesteps in range, also after they moved, and one draw in each of K strata."""
    ours = guidance(folder, draws=4, min_step_percent=0.02, max_step_percent=0.98)
    seen: list[Tensor] = []
    add_noise = ours.scheduler.add_noise
    ours.scheduler.add_noise = lambda x, eps, t: seen.append(t) or add_noise(x, eps, t)
    ours.predict_noise = lambda x_t, *_: x_t
    views = threestudio.views(2, channels=4)
    for low, high in ((0.02, 0.98), (0.3, 0.4)):
        ours.set_min_max_steps(low, high)
        steps = torch.arange(ours.min_step, ours.max_step + 1)
        weights = 1 - ours.scheduler.alphas_cumprod[steps].double()
        assert torch.equal(ours.sampler().proposal.mass, Proposal.from_weights(weights).mass)
        seen.clear()
        for _ in range(20):
            call(ours, views, rgb_as_latents=True)
        t = torch.stack(seen).view(-1, 4)
        assert steps[0] <= t.min()
        assert t.max() <= steps[-1]
        cdf = (weights / weights.sum()).cumsum(0)
        below = torch.cat([torch.zeros(1), cdf[:-1]])[t - steps[0]]
        quarter = torch.arange(4) / 4
        assert (below < quarter + 0.25).all()
        assert (cdf[t - steps[0]] > quarter).all()


def test_chunks_do_not_change_it(folder: Path) -> None:
    views, results = threestudio.views(2, channels=4), []
    for chunk in (0, 3):
        torch.manual_seed(0)
        results.append(call(guidance(folder, draws=4, chunk=chunk), views, rgb_as_latents=True)[1])
    assert (results[0] - results[1]).abs().max() < 1e-4 * results[0].abs().max()  # guidance 100 of float32


def test_renders_in_half_precision(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The gradient is that of float32 to the eleven bits of a float16, and is summed in float32."""
    views, ours = threestudio.views(1, channels=4), guidance(folder, draws=2, guidance_scale=7.5)
    eps = torch.randn(1, 2, 4, 64, 64, generator=torch.Generator().manual_seed(3))
    give(monkeypatch, torch.tensor([[0.2, 0.7]]), torch.ones(1, 2), eps)
    _, expected = call(ours, views, rgb_as_latents=True)
    views.rgb = views.rgb.half()
    out, got = call(ours, views, rgb_as_latents=True)
    assert out["loss_sds"].dtype == torch.float32
    assert (got - expected).abs().max() < 2e-3 * expected.abs().max()


def test_a_draw_that_overflowed_is_left_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The average is over the others, and nothing of it is NaN."""
    views = threestudio.views(1, channels=4)
    ours = guidance(folder, draws=2)
    eps = torch.randn(1, 2, 4, 64, 64, generator=torch.Generator().manual_seed(3))
    u = torch.tensor([[0.2, 0.7]])
    give(monkeypatch, u[:, :1], torch.ones(1, 1), eps[:, :1])
    _, one = call(ours, views, rgb_as_latents=True)
    eps[0, 1, 0, 0, 0] = torch.inf
    give(monkeypatch, u, torch.ones(1, 2), eps)
    _, two = call(ours, views, rgb_as_latents=True)
    torch.testing.assert_close(two, one)
    assert ours.finite.take()[0] == 3


def test_pictures_for_the_log_are_threestudios(folder: Path) -> None:
    views = threestudio.views(2, channels=4)
    out, _ = call(guidance(folder), views, rgb_as_latents=True, guidance_eval=True)
    assert list(out["eval"]) == ["noise_levels"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"proposal": "best"}, "proposal must be one of weighting, uniform, found 'best'"),
        ({"weighting_strategy": "snr"}, "weighting_strategy must be one of sds, uniform, fantasia3d"),
        ({"use_sjc": True}, "use_sjc is not w.* set weighting_strategy=uniform"),
        ({"use_img_loss": True}, "use_img_loss is not w.* set use_img_loss=false"),
        ({"strategy": "best"}, "strategy must be one of iid, stratified"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_the_pipeline_is_loaded(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guidance(Path("no/such/folder"), **keys)
