"""The fresh measurement of an advice."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.variance import MeasuredGradient, StageTimer, measure_pairs
from studies.advisor.gradients import measure_anew, seconds_of
from tests.helpers.linear_gaussian import LinearGaussian

MODEL = LinearGaussian(between=2, level=6, noise=4)
UNIFORM = NoiseLevelSampler(Proposal.uniform(), "iid")


def gradient_of(seconds: list[float]) -> MeasuredGradient:
    """What an iteration does besides takes these seconds, one after the other."""

    def time_other(timer: StageTimer) -> None:
        timer.seconds["other"] = [seconds.pop(0)]

    theta = MODEL.parameters()
    pipeline = MODEL.pipeline(theta)
    return MeasuredGradient(pipeline, [theta], UNIFORM, 2, 1, 0, torch.device("cpu"), time_other=time_other)


def test_what_an_iteration_does_besides_is_timed_anew() -> None:
    """With a gradient of a few milliseconds."""
    left = [50.0, 70.0]
    gradient = gradient_of(left)
    first, second = (seconds_of(gradient, UNIFORM, 2, 1, 2) for _ in range(2))
    assert (first, second) == pytest.approx((50, 70), abs=2)
    assert not left


def test_a_fresh_measurement_is_on_streams_of_its_own() -> None:
    gradient = gradient_of([])
    fresh = measure_anew(gradient, UNIFORM, 2, 4, 60)
    compared = measure_pairs(gradient.sample, gradient.parameters, UNIFORM, 2, 4, 60, gradient.seed).total()
    assert set(fresh.terms).isdisjoint(compared.terms)
    assert abs(fresh.value - (MODEL.between + (MODEL.level + MODEL.noise) / 4) / 2) < 4 * fresh.se
