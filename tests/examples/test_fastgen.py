"""DMD2 for FastGen, in a stand-in of the program."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.carv import Draws, NoiseLevelSampler
from tests.helpers import fastgen
from tests.helpers.examples import EXAMPLES


@pytest.fixture(scope="module", autouse=True)
def program() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fastgen.install(patch)
        patch.syspath_prepend(EXAMPLES / "integrations/fastgen")
        yield


def config(**keys: Any) -> Any:
    """Of the file, as `--config fastgen_carv/config_dmd2_cifar10.py - model.key=value` makes it."""
    made = import_module("fastgen_carv.config_dmd2_cifar10").create_config()
    for key, value in keys.items():
        assert hasattr(made.model, key)
        setattr(made.model, key, value)
    return made


def batch() -> dict[str, Any]:
    """Arguments of a student update of three samples."""
    g = torch.Generator().manual_seed(4)
    z, eps, label, none = (torch.randn(3, *s, generator=g) for s in [(2, 4, 4), (2, 4, 4), (3,), (3,)])
    return {
        "input_student": 80 * z,
        "t_student": torch.full((3,), 80.0, dtype=torch.float64),
        "t": fastgen.Schedule().levels[torch.tensor([100, 500, 900])],
        "eps": eps,
        "data": {"real": z},
        "condition": {"label": label, "frames": 1},
        "neg_condition": {"label": none, "frames": 1},
    }


def gradient(loss: Tensor, model: fastgen.DMD2Model) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.net.parameters()])])


def test_the_configuration_is_fastgens_with_three_keys_more() -> None:
    made, base = config().model, fastgen.create_config().model
    assert (made.draws, made.strategy, made.chunk) == (4, "stratified", None)
    assert all(getattr(made, key) == value for key, value in vars(base).items())


@pytest.mark.parametrize("guidance", [None, 3.0])
@pytest.mark.parametrize("gan", [0.0, 0.5])
def test_one_draw_is_fastgens(monkeypatch: pytest.MonkeyPatch, guidance: float | None, gan: float) -> None:
    """At K = 1 and the same t and ε: losses and the student's gradient, to 1e-6 in float32."""
    keys = {"guidance_scale": guidance, "gan_loss_weight_gen": gan}
    ours = fastgen.instantiate(config(draws=1, strategy="iid", **keys))
    theirs = fastgen.DMD2Model(ours.config)
    arguments = batch()
    ts = arguments["t"].sort().values.repeat_interleave(10)  # the table of quantiles
    monkeypatch.setattr("fastgen_carv.model.QUANTILES", len(ts))
    monkeypatch.setattr(fastgen.Schedule, "sample_t", lambda *_, **__: ts[torch.randperm(len(ts))])
    u = torch.tensor([[0.05], [0.5], [0.95]])  # of t = levels 100, 500, 900
    given = Draws(u, torch.ones_like(u), arguments["eps"][:, None])
    monkeypatch.setattr(NoiseLevelSampler, "draw", lambda *_, **__: given)
    (expected, outputs), (losses, made) = (m._student_update_step(**arguments) for m in (theirs, ours))
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses["vsd_loss"], expected["vsd_loss"], rtol=1e-6, atol=0)
    if gan:
        torch.testing.assert_close(losses["gan_loss_gen"], expected["gan_loss_gen"], rtol=1e-6, atol=0)
    assert all(torch.equal(made[key], value) for key, value in outputs.items())
    got, wanted = gradient(losses["total_loss"], ours), gradient(expected["total_loss"], theirs)
    assert (got - wanted).abs().max() < 1e-6 * wanted.abs().max()


def test_draws_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient at K = 4 is the mean of four gradients at K = 1, each with its own t, ε and divisor."""
    model = fastgen.instantiate(config(gan_loss_weight_gen=0.0))
    arguments = batch()
    ts = model.net.noise_scheduler.sample_t(1 << 16, "polynomial", torch.device("cpu"))
    monkeypatch.setattr(fastgen.Schedule, "sample_t", lambda *_, **__: ts)
    draws = model.sampler.draw(3, 4, (2, 4, 4), torch.Generator().manual_seed(0))

    def of(part: Draws) -> Tensor:
        monkeypatch.setattr(NoiseLevelSampler, "draw", lambda *_, **__: part)
        return gradient(model._student_update_step(**arguments)[0]["total_loss"], model)

    each = [of(Draws(*(t[:, k : k + 1] for t in vars(draws).values()))) for k in range(4)]
    torch.testing.assert_close(of(draws), torch.stack(each).mean(0), rtol=1e-5, atol=1e-7)
    model.chunk.rows = 5
    torch.testing.assert_close(of(draws), torch.stack(each).mean(0), rtol=1e-5, atol=1e-7)


def test_levels_are_fastgens_in_strata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of K = 4 draws each has its quarter of FastGen's own levels, and over 200 updates of 3 samples their
    mean ln t is that of 2 … 998 within four standard errors."""
    model = fastgen.instantiate(config(gan_loss_weight_gen=0.0))
    seen: list[Tensor] = []
    forward = fastgen.Schedule.forward_process
    monkeypatch.setattr(fastgen.Schedule, "forward_process", lambda *a: seen.append(a[3]) or forward(*a))
    torch.manual_seed(5)
    for _ in range(200):
        model._student_update_step(**batch())
    t = torch.stack(seen).view(-1, 4)
    levels = model.net.noise_scheduler.levels[2:999]
    assert torch.isin(t, levels).all()
    place = torch.searchsorted(levels, t).double() / len(levels)
    assert ((place - (torch.arange(4) + 0.5) / 4).abs() < 0.125 + 0.02).all()
    means = t.log().mean(1)
    se = means.std() / len(means) ** 0.5
    assert abs(means.mean() - levels.log().mean()) < 4 * se


@pytest.mark.parametrize(
    ("keys", "message"), [({"strategy": "best"}, "strategy must be one of"), ({"draws": 0}, "at least 1")]
)
def test_what_cannot_be_is_refused_before_networks_are_loaded(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(fastgen, "Network", None)
    with pytest.raises(ValueError, match=message):
        fastgen.instantiate(config(**keys))
