"""Variational score distillation: the fake score's loss, who learns by what, and its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.carv import Draws, average_residual, stream, surrogate
from carv_distill.engine.callbacks import StopOnNonFinite
from carv_distill.errors import UserError
from carv_distill.teachers.low_rank import LowRankOptions
from carv_distill.text_to_3d.composition import compose
from carv_distill.text_to_3d.guidance.options import VSDOptions
from carv_distill.text_to_3d.guidance.vsd import FakeScore
from carv_distill.text_to_3d.module import SDSModule
from tests.helpers.gaussian_network import DIM, F64, FAKE, MEANS, SCHEDULE, VARIANCES
from tests.helpers.loops import fit
from tests.helpers.sds_modules import build_module
from tests.helpers.tiny_pipelines import save_sd3, save_sdxl

Make = Callable[..., SDSModule]
SCALE = 7.5
SMALL = VSDOptions(lr=0.01, adapters=LowRankOptions(rank=2))


@pytest.fixture
def module(make_module: Make) -> SDSModule:
    """With a fake score away from the teacher."""
    made = make_module(objective="vsd", guidance=SCALE, vsd=SMALL)
    assert made.objective.fake is not None
    for i, p in enumerate(made.objective.fake.weights):
        p.data.copy_(0.2 * torch.randn(p.shape, generator=stream("away", i)))
    return made


def fake_of(module: SDSModule) -> FakeScore:
    assert module.objective.fake is not None
    return module.objective.fake


def merged(module: SDSModule, x_t: Tensor, t: Tensor, words: Tensor) -> Tensor:
    """The fake score's prediction by a network of its own, without adapters."""
    network: Any = fake_of(module).shared.merged("fake")
    result: Tensor = network.model(x_t, t, encoder_hidden_states=words).sample
    return result


def noised(module: SDSModule, x: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    kept = (1 / (1 + module.objective.teacher.schedule.table[t] ** 2)).float().view(-1, 1, 1, 1)
    return kept.sqrt() * x + (1 - kept).sqrt() * eps, 1 - kept


def test_one_draw_gives_the_published_gradient(module: SDSModule) -> None:
    """w(t) (ε̂_∅ + s (ε̂_y − ε̂_∅) − ε̂_fake): the UNet's own calls, and a UNet with the adapters merged in."""
    o = module.objective
    levels, t = o.levels.range_at(0), torch.tensor([5, 20, 40])
    u = (t - levels.first + 0.5) / levels.count
    x, eps = (torch.randn(3, 4, 4, 4, generator=stream(i)) for i in range(2))
    cond = o.prompts.value[torch.tensor([0, 2, 3])]  # type: ignore[index]
    found = o.residual(cond, 0)(x, u, eps, torch.arange(3))
    x_t, weight = noised(module, x, t, eps)
    null = o.denoiser.null.value.embeddings.expand(3, -1, -1)  # type: ignore[union-attr]
    with torch.no_grad():
        fake = merged(module, x_t, t, cond.embeddings)
        own, none = (
            o.teacher.network.model(x_t, t, encoder_hidden_states=words).sample
            for words in (cond.embeddings, null)
        )
    exact = weight * (none + SCALE * (own - none) - fake)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert (weight * (own - fake)).abs().max() > 0.01


def test_it_begins_as_the_teacher(make_module: Make) -> None:
    """So that at guidance 1 there is nothing to learn in the first step."""
    module = make_module(objective="vsd", guidance=1.0, vsd=SMALL)
    o = module.objective
    x, eps = (torch.randn(2, 4, 4, 4, generator=stream(i)) for i in range(2))
    residual = o.residual(o.prompts.value, 0)  # type: ignore[arg-type]
    found = residual(x, torch.tensor([0.2, 0.9]), eps, torch.arange(2))
    assert found.abs().max() < 1e-5


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 2, 100])
@pytest.mark.parametrize("draws", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_loss_is_the_denoising_error_of_the_renders(module: SDSModule, draws: int, chunk: int) -> None:
    """1/R Σ 1/K Σ ‖ε̂_fake(x_t, t, y) − ε‖², whatever goes through a backward together."""
    o, fake = module.objective, fake_of(module)
    fake.options = replace(SMALL, draws=draws, chunk=chunk)
    levels, cond = o.levels.range_at(0), o.prompts.value[torch.tensor([1, 3])]  # type: ignore[index]
    x = torch.randn(2, 4, 4, 4, generator=stream("x"))
    drawn = fake.sampler(levels).draw(2, draws, (4, 4, 4), stream("draws"))
    assert torch.equal(drawn.weight, torch.ones(2, draws))
    parts = list(fake.losses(x, drawn, levels, cond, False))
    assert len(parts) == -(-2 * draws // chunk)
    t, eps = levels.timestep(drawn.u), drawn.eps
    total = torch.zeros(())
    for r in range(2):
        for k in range(draws):
            x_t, _ = noised(module, x[r : r + 1], t[r, k : k + 1], eps[r, k : k + 1])
            words = cond.embeddings[r : r + 1]
            total += (merged(module, x_t, t[r, k], words) - eps[r, k]).square().sum() / (2 * draws)
    torch.testing.assert_close(torch.stack(parts).sum(), total, rtol=1e-4, atol=1e-5)


def test_neither_gradient_reaches_the_other(module: SDSModule) -> None:
    """The residual leaves the adapters alone, the fake score's loss the scene, and both the teacher."""
    o, fake = module.objective, fake_of(module)
    cameras = o.cameras(2, stream("cameras"))
    upstream, _ = o.upstream(cameras, stream("render"), 0)
    assert upstream.x.requires_grad
    draws = o.levels.configured(0).draw(2, 3, (4, 4, 4), stream("d"))
    surrogate(upstream.x, average_residual(upstream.residual, upstream.x, draws)).backward()
    scene = [p.grad.clone() for p in module.scene.parameters()]  # type: ignore[union-attr]
    assert all(p.grad is None for p in fake.weights)
    for loss in o.fake_losses(upstream.x, cameras, draws, 0):
        loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in fake.weights)
    assert all(torch.equal(p.grad, g) for p, g in zip(module.scene.parameters(), scene, strict=True))  # type: ignore[arg-type]
    others = [p for name, p in o.teacher.named_parameters() if ".lora_" not in name]
    assert others
    assert all(p.grad is None and not p.requires_grad for p in others)


def test_the_base_is_in_memory_once(make_module: Make) -> None:
    """Beside the plain teacher there are the adapters alone, and they alone are in a checkpoint."""
    plain, adapted = make_module(), make_module(objective="vsd", vsd=SMALL)
    fake = fake_of(adapted)
    memory = {p.data_ptr(): p.nbytes for p in adapted.parameters()}
    added = sum(p.nbytes for p in fake.weights)
    assert sum(memory.values()) == sum({p.data_ptr(): p.nbytes for p in plain.parameters()}.values()) + added
    checkpoint: dict[str, Any] = {"state_dict": adapted.state_dict()}
    adapted.on_save_checkpoint(checkpoint)
    kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("objective.scene.")}
    assert all(k.startswith("objective.fake.") and ".lora_" in k for k in kept)
    assert sum(v.nbytes for v in kept.values()) == added


def test_a_step_is_one_of_each(make_module: Make) -> None:
    """Scene and adapters move, `global_step` counts the scene's, and the first step of the adapters is Adam's
    of the loss under the weights that the residual saw."""
    module = make_module(objective="vsd", guidance=SCALE, vsd=SMALL, renders_at_once=1)
    before = [p.detach().clone() for p in fake_of(module).weights]
    fit(module, 1)
    assert module.global_step == 1
    assert module.fake_vector is not None
    gradient = module.fake_vector.gradients[0]
    moved = torch.cat([(p - b).flatten() for p, b in zip(fake_of(module).weights, before, strict=True)])
    # Adam's first step is −lr g/(|g| + ε)
    torch.testing.assert_close(moved, -0.01 * gradient / (gradient.abs() + 1e-8), rtol=1e-3, atol=1e-6)
    again = make_module(objective="vsd", guidance=SCALE, vsd=SMALL)  # both renders at once
    fit(again, 1)
    drawn = again.fake_draws(0, torch.float32)
    assert drawn is not None
    assert drawn.u.shape == (2, 4)
    assert float(again.metrics()["loss/fake"]) == pytest.approx(float(module.metrics()["loss/fake"]), rel=0.2)


def test_two_trainings_are_equal_to_the_bit_and_learn_the_renders(make_module: Make) -> None:
    one, two = (fit(make_module(objective="vsd", vsd=SMALL), 3) for _ in range(2))
    assert all(map(torch.equal, one.scene.parameters(), two.scene.parameters()))
    assert all(map(torch.equal, fake_of(one).weights, fake_of(two).weights))


@pytest.mark.slow
def test_losses_that_are_not_finite_end_a_run_when_there_are_too_many(make_module: Make) -> None:
    """Scene and adapters stay as they are at the spoiled step, and go on after it; three in a row are too
    many, and the run stops at the third."""
    module = make_module(objective="vsd", vsd=SMALL, max_skips=3)
    original, before = module.objective.fake_losses, []

    def spoiled(x: Tensor, cameras: Any, draws: Draws, step: int) -> Iterator[Tensor]:
        before.append([p.detach().clone() for p in (*module.scene.parameters(), *fake_of(module).weights)])
        for loss in original(x, cameras, draws, step):
            yield loss * torch.nan if step == 1 or step >= 4 else loss

    module.objective.fake_losses = spoiled  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"^3 steps in a row"):
        fit(module, 9, StopOnNonFinite(5))
    assert module.global_step == 7
    assert all(map(torch.equal, before[1], before[2]))
    assert not any(map(torch.equal, before[2], before[3]))
    assert all(p.isfinite().all() for p in module.parameters())
    assert float(module.metrics()["nonfinite/skipped_steps"]) == 4


@pytest.mark.slow
def test_its_loss_falls_on_renders_that_it_has_seen(make_module: Make) -> None:
    """By a tenth in 40 steps on the same two renders and draws; a random network can learn little of them."""
    module = make_module(objective="vsd", vsd=replace(SMALL, chunk=100))
    _, optimizer = module.configure_optimizers()
    assert module.fake_vector is not None
    x = torch.randn(2, 4, 4, 4, generator=stream("x"))
    cameras, draws = module.objective.cameras(2, stream("c")), module.fake_draws(0, x.dtype)
    losses = []
    for _ in range(40):
        (loss,) = module.fake_losses(x, cameras, draws, 0)
        loss.backward()
        module.fake_vector.descend(optimizer)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("value", [pytest.param(float("nan"), marks=pytest.mark.slow), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(make_module: Make, value: float) -> None:
    module = make_module(objective="vsd", vsd=SMALL)
    original = module.objective.fake_losses

    def fake_losses(x: Tensor, cameras: Any, draws: Draws, step: int) -> Any:
        for loss in original(x, cameras, draws, step):
            yield loss * (value if step == 1 else 1.0)

    module.objective.fake_losses = fake_losses  # type: ignore[method-assign]
    states = []
    step = module.training_step

    def training_step(batch: object, batch_idx: int) -> None:
        states.append([p.detach().clone() for p in (*module.scene.parameters(), *fake_of(module).weights)])
        step(batch, batch_idx)

    module.training_step = training_step  # type: ignore[method-assign]
    fit(module, 3)
    assert all(map(torch.equal, states[1], states[2]))
    assert not all(map(torch.equal, states[0], states[1]))
    assert float(module.metrics()["nonfinite/skipped_steps"]) == 1
    assert all(p.isfinite().all() for p in fake_of(module).weights)


@pytest.mark.parametrize("augment", ["render", "draw"])
def test_with_pictures_of_renders_it_learns_these(make_pixel_module: Make, augment: str) -> None:
    module = make_pixel_module(objective="vsd", augment=augment, vsd=replace(SMALL, draws=1, chunk=100))
    o, fake = module.objective, fake_of(module)
    drawn = fake.sampler(o.levels.range_at(0)).draw(1, 1, o.fake_shape, stream("d"))
    cameras, x = o.cameras(1, stream("c")), torch.rand(1, *o.shape, generator=stream("x"))
    (found,) = o.fake_losses(x, cameras, drawn, 0)
    picture = compose(x, drawn.eps[0, :, 3:]).image
    t, eps = o.levels.range_at(0).timestep(drawn.u[0]), drawn.eps[0, :, :3]
    x_t, _ = noised(module, picture, t, eps)
    predicted = o.teacher.network.model(x_t, t, encoder_hidden_states=o.conditions(cameras).embeddings).sample
    torch.testing.assert_close(found, (predicted[:, :3] - eps).square().sum(), rtol=1e-4, atol=1e-4)
    fit(module, 2)


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_sdxl, save_sd3])
def test_other_teachers_train_a_field(save: Callable[[Path], Path], tmp_path: Path) -> None:
    """SDXL with its pooled embeddings, and a flow's velocity at pure noise too."""
    module = build_module(save(tmp_path), 2, 3, objective="vsd", t_max=1.0, vsd=SMALL)
    scene, adapters = list(module.scene.parameters()), fake_of(module).weights
    before = [p.detach().clone() for p in (*scene, *adapters)]
    fit(module, 2)
    moved = [not torch.equal(old, p) for old, p in zip(before, (*scene, *adapters), strict=True)]
    assert all(p.isfinite().all() for p in (*scene, *adapters))
    assert all(moved[: len(scene)])
    assert sum(moved) > 0.9 * len(moved)  # SD3's last block has layers for words that nothing reads


@pytest.mark.slow
def test_checkpointed_blocks_give_the_same_step(make_module: Make) -> None:
    plain, checkpointed = (
        fit(make_module(objective="vsd", vsd=replace(SMALL, gradient_checkpointing=on)), 2)
        for on in (False, True)
    )
    for a, b in zip(fake_of(plain).weights, fake_of(checkpointed).weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_layers_that_there_are_not(make_module: Make) -> None:
    adapters = LowRankOptions(targets=["nothing"])
    with pytest.raises(UserError, match=r"^sds\.vsd\.adapters\.targets: 'nothing' matches no"):
        make_module(objective="vsd", vsd=VSDOptions(adapters=adapters))


def test_the_closed_form_has_a_fake_score_of_its_own() -> None:
    """What the exact means of all objectives are tested with: it is none of the other distributions."""
    assert SCHEDULE.timesteps == 100
    assert MEANS.shape == VARIANCES.shape == (4, DIM)
    assert MEANS.dtype == F64
    assert (MEANS[FAKE] - MEANS[:FAKE]).abs().amax(1).min() > 0.1


def test_the_sampler_stays_while_the_timesteps_do(module: SDSModule) -> None:
    """Its tables then go to a GPU once, and not at every step."""
    fake, levels = module.objective.fake, module.objective.levels
    assert fake is not None
    assert fake.sampler(levels.range_at(0)) is fake.sampler(levels.range_at(1))
    fewer = replace(levels.range_at(0), last=levels.range_at(0).last - 1)
    assert fake.sampler(fewer).proposal.bins == levels.range_at(0).count - 1
