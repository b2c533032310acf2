"""What one student update does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream, surrogate
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.generators import generators
from carv_distill.distillation.gradient import measure_variance
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.tasks import train
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.trainers import bare_trainer

GOLDEN = Path(__file__).with_name("golden_losses.json")
MakeConfig = Callable[..., DMDConfig]


def build(config: DMDConfig) -> DMDModule:
    module = build_module(config, load_images("digits"))
    assert isinstance(module, DMDModule)
    return module


def with_moved_fake(module: DMDModule) -> DMDModule:
    """The fake score starts as the teacher: moved a little, so that there is a residual to measure."""
    with torch.no_grad():
        for i, p in enumerate(module.objective.fake.parameters()):
            p += 0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return module


class Losses(DMDModule):
    """Keeps every update's losses."""

    def training_step(self, batch: object, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if not hasattr(self, "history"):
            self.history: list[list[float]] = []
        self.history.append([float(v) for v in self.latest_losses.values()])


def test_the_first_twenty_updates_give_the_stored_losses(small_config: MakeConfig) -> None:
    """Float64 losses of fake score and student, to 1e-6: a refactor is known to change nothing.

    To store new ones after a change that is meant to alter them, delete golden_losses.json and run this.
    """
    rates = ("dmd.student_lr=6e-4", "dmd.fake_lr=1e-3")
    config = small_config("estimator.draws=4", "estimator.chunk=6", *rates)
    module = build(config)
    module.__class__ = Losses
    bare_trainer(20, "64-true").fit(module)
    history = torch.tensor(module.history, dtype=torch.float64)  # type: ignore[attr-defined]
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(history.tolist(), indent=1) + "\n")
        pytest.fail("there were no stored losses; they are stored now")
    stored = torch.tensor(json.loads(GOLDEN.read_text()), dtype=torch.float64)
    torch.testing.assert_close(history, stored, rtol=1e-6, atol=1e-6)


def test_only_the_student_counts_as_a_step(small_config: MakeConfig) -> None:
    """global_step is the number of student updates, at any number of fake-score updates."""
    module = build(small_config("dmd.fake_updates_per_student=3"))
    trainer = bare_trainer(4)
    trainer.fit(module)
    assert trainer.global_step == 4
    student, fake = trainer.optimizers
    assert {int(s["step"]) for s in student.state.values()} == {4}
    assert {int(s["step"]) for s in fake.state.values()} == {12}


def test_the_teacher_stays_frozen_and_out_of_the_checkpoint(small_config: MakeConfig, tmp_path: Path) -> None:
    module = build(small_config())
    before = {k: v.clone() for k, v in module.objective.teacher.state_dict().items()}
    trainer = bare_trainer(2)
    trainer.fit(module)
    after = module.objective.teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad or p.grad is not None for p in module.objective.teacher.parameters())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert {k.removeprefix("objective.").split(".")[0] for k in state} == {
        "student",
        "fake",
        "student_ema",
        "clipped",
    }


def test_a_checkpoint_of_other_networks_is_refused(small_config: MakeConfig) -> None:
    module = build(small_config())
    state = dict(module.state_dict())
    state.pop("objective.student.network.model.conv_in.weight")
    with pytest.raises(UserError, match=r"student\.network\.model\.conv_in\.weight"):
        module.on_load_checkpoint({"state_dict": state})


def test_a_checkpoint_without_what_was_learned_is_refused(small_config: MakeConfig) -> None:
    """A run with a learned proposal does not go on from one without: it would begin to learn anew."""
    module = build(small_config("estimator.proposal=adaptive"))
    assert module.learners
    trained = [k for k in module.state_dict() if not k.startswith(module.frozen)]
    state = {k: module.state_dict()[k] for k in trained}
    with pytest.raises(UserError, match=r"lacks what this run learned from its draws: adaptive"):
        module.on_load_checkpoint({"state_dict": state})
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)


def test_one_backward_of_the_student_equals_the_mean_of_k_backwards(small_config: MakeConfig) -> None:
    """On the real networks, float64, to 1e-8."""
    module = with_moved_fake(build(small_config())).double()
    upstream, _ = module.streams(module.shares[0].index, "one backward")
    z, labels = module.objective.upstream_noise(3, upstream)
    draws = module.estimator.sampler.draw(
        3, 4, module.objective.shape, generator=upstream, dtype=torch.float64
    )
    parameters = list(module.objective.student.parameters())

    def gradient(direction: torch.Tensor) -> torch.Tensor:
        loss = surrogate(module.objective.generate(module.objective.student, z, labels), direction)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    x = module.objective.generate(module.objective.student, z, labels).detach()
    together = gradient(average_residual(module.objective.residual(labels), x, draws))
    apart = []
    for k in range(4):
        one = type(draws)(draws.u[:, k : k + 1], draws.weight[:, k : k + 1], draws.eps[:, k : k + 1])
        apart.append(gradient(average_residual(module.objective.residual(labels), x, one)))
    torch.testing.assert_close(together, torch.stack(apart).mean(0), rtol=0, atol=1e-8)
    assert together.norm() > 1e-3


def test_stratified_levels_and_reuse_lower_the_variance_with_the_upstream_fixed(
    small_config: MakeConfig,
) -> None:
    """(4, 1) iid against (4, 8) stratified: at least 4 × lower within; total is lower too."""
    module = with_moved_fake(build(small_config()))
    proposal = Proposal.uniform()
    arms = ((NoiseLevelSampler(proposal, "iid"), 1), (NoiseLevelSampler(proposal, "stratified"), 8))
    iid, stratified = (measure_variance(module, s, k, 12, ("test",)) for s, k in arms)
    assert iid.within().low > 4 * stratified.within().high
    assert iid.total().value > stratified.total().value


def test_clipping_is_counted(small_config: MakeConfig) -> None:
    """Every update is clipped at a tiny norm, none at a huge one; the count is a metric."""
    for norm, count in ((1e-6, 3), (1e9, 0)):
        module = build(small_config(f"dmd.clip_norm={norm}"))
        bare_trainer(3).fit(module)
        assert int(module.metrics()["student/clipped_updates"]) == count


def test_cosine_decay_follows_its_formula(small_config: MakeConfig) -> None:
    """Learning rate of both networks at update n is (1 + cos πn/N)/2 of the configured one."""
    module = build(small_config("dmd.lr_decay=both"))
    trainer = bare_trainer(4)
    trainer.fit(module)
    expected = (1 + torch.tensor(torch.pi * 3 / 4).cos().item()) / 2
    student, fake = (o.param_groups[0]["lr"] for o in trainer.optimizers)
    assert student == pytest.approx(expected * module.options.student_lr)
    assert fake == pytest.approx(expected * module.options.fake_lr)


def test_the_average_may_be_given_as_a_half_life(small_config: MakeConfig) -> None:
    """Half-life of 12 samples and batches of 4: a weight counts half after three updates. A ramp caps it."""
    half_life = ("dmd.ema_half_life=0.012", "dmd.ema_ramp=false")
    assert build(small_config(*half_life)).ema_decays(0)[0] ** 3 == pytest.approx(0.5)
    assert build(small_config(*half_life, "dmd.global_batch=12")).ema_decays(0) == [pytest.approx(0.5)]
    ramped = build(small_config("dmd.ema=0.98", "dmd.ema_beside=[0.5]"))
    assert [ramped.ema_decays(n) for n in (0, 10, 10_000)] == [[0.1, 0.1], [0.55, 0.5], [0.98, 0.5]]


def test_learning_rates_warm_up(small_config: MakeConfig) -> None:
    """The third of four steps of warm-up is made at three quarters of the rates."""
    module = build(small_config("dmd.warmup=4"))
    trainer = bare_trainer(3)
    trainer.fit(module)
    student, fake = (o.param_groups[0]["lr"] for o in trainer.optimizers)
    assert student == pytest.approx(0.75 * module.options.student_lr)
    assert fake == pytest.approx(0.75 * module.options.fake_lr)


def test_the_students_gradient_is_a_sum_over_entries(small_config: MakeConfig) -> None:
    """C·H·W times the gradient of FastGen's and DMD2's loss, ½ mean (x − stopgrad(x − r))², so clip_norm is
    that many times theirs: float64, to 1e-10, and at the bound the applied norm is it."""
    module = with_moved_fake(build(small_config("estimator.draws=1"))).double()
    o, g = module.objective, stream("gradient")
    z, labels = o.upstream_noise(4, g)
    x = o.generate(o.student, z, labels)
    u, eps = torch.rand(4, generator=g).double(), torch.randn(x.shape, generator=g, dtype=x.dtype)
    with torch.no_grad():
        r = o.residual(labels)(x, u, eps, torch.arange(4))
    theirs = 0.5 * torch.nn.functional.mse_loss(x, (x - r).detach())
    ours = surrogate(x, r)
    entries = 1 * 8 * 8
    gradients = [
        torch.cat([p.flatten() for p in torch.autograd.grad(loss, o.student_parameters, retain_graph=True)])
        for loss in (theirs, ours)
    ]
    torch.testing.assert_close(gradients[1], entries * gradients[0], rtol=0, atol=1e-10)
    assert gradients[1].norm() > 1e-3
    clipped = with_moved_fake(build(small_config("dmd.clip_norm=0.01")))
    bare_trainer(1).fit(clipped)
    assert float(clipped.metrics()["student/grad_norm"]) == pytest.approx(0.01, rel=1e-3)


def test_the_fake_scores_gradient_is_clipped_on_its_own(small_config: MakeConfig) -> None:
    """To its bound, and not without one; the student's is left."""
    norms = {}
    for bound in ("null", "1e-3", "1e9"):
        module = build(small_config(f"dmd.fake_clip_norm={bound}", "dmd.fake_updates_per_student=1"))
        bare_trainer(1).fit(module)
        gradient = module.fake_vectors[0].theta.grad
        assert gradient is not None
        norms[bound] = float(gradient.norm())
        assert module.clipped == 0
        clipped = module.metrics().get("fake/clipped_updates")
        assert (clipped is None) if bound == "null" else (int(clipped) == (bound == "1e-3"))  # type: ignore[arg-type]
    assert norms["1e-3"] == pytest.approx(1e-3, rel=1e-3)
    assert norms["null"] == norms["1e9"] > 1e-2


def test_several_averages_follow_their_decays(small_config: MakeConfig, tmp_path: Path) -> None:
    """θ̄_n = δ θ̄ + (1 − δ) θ_n of each, over four updates, in float64 to 1e-12; 0 is the student itself.
    Each lies in the student's folder as a pipeline, under its decay."""
    words = ("dmd.ema=0.0", "dmd.ema_beside=[0.5,0.98]", "dmd.ema_ramp=false")
    module = build(small_config(*words))
    students: list[torch.Tensor] = []
    update = module.apply_student

    def keep(*arguments: Any) -> None:
        if not students:
            students.append(module.student_vector.theta.detach().clone())
        update(*arguments)
        students.append(module.student_vector.theta.detach().clone())

    module.apply_student = keep  # type: ignore[method-assign]
    bare_trainer(4, "64-true").fit(module)
    for row, decay in enumerate((0.5, 0.98)):
        expected = students[0]
        for student in students[1:]:
            expected = decay * expected + (1 - decay) * student
        torch.testing.assert_close(module.averages[row], expected, rtol=0, atol=1e-12)
    assert torch.equal(module.ema_vector.theta, students[-1])
    module.float().save(tmp_path / "student", 4)
    for row, name in enumerate(("0.5", "0.98")):
        network = load_teacher(tmp_path / "student/averages" / name).network
        found = torch.nn.utils.parameters_to_vector(network.parameters())
        assert torch.equal(found, module.averages[row])
        assert (tmp_path / f"student/averages/{name}/model_index.json").is_file()


@pytest.mark.slow
def test_every_average_is_measured_by_its_name(small_config: MakeConfig) -> None:
    """The student first, the teacher last and known as such."""
    config = small_config("dmd.ema_beside=[0.5,0.9995001]", "dmd.ema_ramp=false", "trainer.max_steps=2")
    run = train(config)
    made = generators(config, run, "cpu")
    names = ["student, 1 step", "student, 1 step, average 0.5", "student, 1 step, average 0.9995"]
    assert [g.name for g in made if not g.teacher] == names
    assert made[-1].teacher
    z, labels = torch.randn(2, 1, 8, 8, generator=stream("z")), torch.tensor([3, 7])
    with torch.no_grad():
        pictures = [g.load()(z, labels) for g in made[:3]]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


@pytest.mark.parametrize("words", [("[0.5,0.5]",), ("[0.98]",), ("[1.0]",), ("[0.0]",), ("[nan]",)])
def test_averages_that_cannot_be_told_apart_are_refused(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"dmd\.ema_beside: "):
        small_config(f"dmd.ema_beside={words[0]}")


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_compiled_networks_make_the_same_updates(small_config: MakeConfig) -> None:
    """Three updates against eager ones: losses to 1e-4."""
    losses = []
    for compiled in ("false", "true"):
        module = build(small_config(f"dmd.compile={compiled}"))
        bare_trainer(3).fit(module)
        losses.append(torch.stack(list(module.latest_losses.values())))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
