"""What of the output is differentiated."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.outputs import OUTPUTS
from carv_distill.attribution.options import OUTPUT_NAMES
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import stream
from tests.helpers.linear import SCHEDULE, linear_gradients
from tests.helpers.sample_gradients import batch, draws_of, unet_gradients


def test_by_hand() -> None:
    raw, ideal = torch.tensor([[[3.0, -4.0]]]), torch.tensor([[[1.0, 0.0]]])
    found = {name: float(f(raw, ideal, None)) for name, f in OUTPUTS.items()}
    assert found == pytest.approx({"loss": 10, "square": 12.5, "l1": 3.5, "l2": 12.5**0.5, "linf": 4})
    weight = torch.tensor([[0.5, 1.5]])
    weighed = {name: float(f(raw, ideal, weight)) for name, f in OUTPUTS.items()}
    assert weighed == pytest.approx({"loss": 13, "square": 14.25, "l1": 3.75, "l2": 14.25**0.5, "linf": 4})
    assert tuple(OUTPUTS) == OUTPUT_NAMES


@pytest.mark.parametrize("name", OUTPUTS)
def test_both_back_ends_differentiate_it(name: str) -> None:
    """And autograd through the network itself."""
    gradients, (x, labels) = unet_gradients(output=name), batch(2)
    samples, draws = SampleBatch(x, labels), draws_of((1, 8, 8), groups=1).row(0)
    found = gradients(samples, draws)
    denoiser = gradients.loss.denoiser
    backward = BackwardGradients(gradients.loss)
    torch.testing.assert_close(backward(samples, draws), found, rtol=1e-9, atol=1e-12)
    parameters = [p.requires_grad_() for p in denoiser.network.parameters()]
    value = gradients.loss(*samples.sample(0), draws)
    exact = torch.autograd.grad(value, parameters)
    torch.testing.assert_close(found[0], torch.cat([g.flatten() for g in exact]), rtol=1e-9, atol=1e-12)


def test_without_the_loss_the_data_enter_by_what_the_network_sees_alone() -> None:
    """Linear F = W y: d/dW of mean (W y)² is 2/D W y yᵀ."""
    gradients = linear_gradients()
    gradients.loss.output = OUTPUTS["square"]
    (weight,) = gradients.loss.chosen.values()
    x = torch.randn(1, 3, generator=stream("x"), dtype=torch.float64)
    draws = draws_of((3,), groups=1, each=1).row(0)
    c = gradients.loss.denoiser.coefficients(x, SCHEDULE.sigma(draws.u))
    y = c.noised(x, draws.eps)
    expected = draws.weight * 2 / 3 * (weight @ y[0])[:, None] * y
    torch.testing.assert_close(gradients(SampleBatch(x), draws)[0].view(3, 3), expected)
