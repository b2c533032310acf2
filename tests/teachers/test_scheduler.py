"""What a scheduler's configuration may say, and which levels are a noise schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from carv_distill.errors import UserError
from carv_distill.teachers.schedule import EDMSchedule, FlowSchedule, VPSchedule, check_levels
from carv_distill.teachers.scheduler import parametrisation, read_scheduler
from carv_distill.teachers.teacher import edm_scheduler_config

DDPM = json.loads(DDPMScheduler().to_json_string())
EDM = edm_scheduler_config(EDMSchedule(0.01, 50.0, 5.0), sigma_data=0.7)


def read(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    return parametrisation(read_scheduler(folder), folder)


def refusal(folder: Path, config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, config)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_betas": []}, "the length of trained_betas is 0"),
        ({"trained_betas": [0.0, 0.0, 0.1, 0.1]}, "β = 0 is not between 0 and 1"),
        ({"trained_betas": [1.5, 1.5]}, "β = 1.5 is not between 0 and 1"),
        ({"trained_betas": [0.1, -0.1]}, "β = -0.1 is not between 0 and 1"),
        ({"trained_betas": [0.1]}, "found 1, at least two are needed"),
        ({"trained_betas": [[0.1], [0.2]]}, "not a list of finite numbers"),
        ({"trained_betas": [0.1, math.nan]}, "not a list of finite numbers"),
        ({"trained_betas": "linear"}, "trained_betas is 'linear', not a list of finite numbers or null"),
        ({"trained_betas": [0.9999] * 200}, "all must be finite"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0; allowed are 1 to"),
        ({"num_train_timesteps": -3}, "num_train_timesteps is -3"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000"),
        ({"num_train_timesteps": 1}, "at least two are needed"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps is '1000', not a whole number"),
        ({"num_train_timesteps": True}, "num_train_timesteps is True, not a whole number"),
        ({"beta_start": "0.1"}, "beta_start is '0.1', not a finite number"),
        ({"beta_end": 10**400}, "beta_end is"),
        ({"beta_start": 0.0}, "β = 0 is not between"),
        ({"beta_schedule": ["linear"]}, r"beta_schedule is ['linear'], not a text or null"),
        ({"prediction_type": ["epsilon"]}, "prediction_type is ['epsilon'], not a text"),
        ({"prediction_type": None}, "prediction_type is None, not a text"),
        ({"rescale_betas_zero_snr": "no"}, "rescale_betas_zero_snr is 'no', not a truth value"),
        ({"_class_name": {"a": 1}}, "_class_name is {'a': 1}, not a text"),
        ({"timestep_type": 3}, "timestep_type is 3, not a text"),
        ({**FLOW, "flow_shift": 0.0}, "shift is 0, not above 0"),
        ({**FLOW, "use_dynamic_shifting": True}, "needs a picture's size"),
        ({"use_flow_sigmas": True}, "prediction_type 'epsilon' is not supported"),
        ({**FLOW, "prediction_type": "v_prediction"}, "prediction_type 'v_prediction' is not supported"),
        ({**FLOW, "prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
        ({"_class_name": "FlowMatchX", "invert_sigmas": True}, "invert_sigmas is not supported"),
        ({"_class_name": "FlowMatchX", "shift": "3"}, "shift is '3', not a finite number"),
        ({"_class_name": "FlowMatchX", "num_train_timesteps": 1}, "at least two are needed"),
        ({"rescale_betas_zero_snr": True}, "prediction_type epsilon does not go with zero signal"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale 3 is not supported"),
    ],
)
def test_betas_that_are_no_schedule(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(tmp_path, {**DDPM, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_min": 80.0, "sigma_max": 0.002}, "all must be increasing"),
        ({"sigma_min": 2.0, "sigma_max": 2.0}, "all must be increasing"),
        ({"sigma_max": math.nan}, "sigma_max is nan, not a finite number"),
        ({"sigma_max": math.inf}, "sigma_max is inf, not a finite number"),
        ({"sigma_min": 0.0}, "sigma_min is 0, not above 0"),
        ({"sigma_min": -1.0}, "sigma_min is -1, not above 0"),
        ({"sigma_data": 0.0}, "sigma_data is 0, not above 0"),
        ({"sigma_data": None}, "sigma_data is None, not a finite number"),
        ({"rho": 0.0}, "rho is 0, not above 0"),
        ({"rho": -7.0}, "rho is -7, not above 0"),
        ({"rho": 1e-300}, "no readable scheduler"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ],
)
def test_edm_levels_that_are_no_schedule(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(tmp_path, {**EDM, **changes})


def test_a_whole_number_beyond_64_bits_is_a_number(tmp_path: Path) -> None:
    """σ_d² of 10¹² is too large for torch's integers."""
    _, precondition = read(tmp_path, {**EDM, "sigma_data": 10**12})
    assert precondition(torch.tensor([1.0])).signal == pytest.approx(1e-12)


def test_continuous_timesteps_are_not_read_as_discrete(tmp_path: Path) -> None:
    """Stable Video Diffusion's: σ up to 700 and c_noise = ln(σ)/4, not the betas' 157 and timesteps."""
    scheduler = EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0
    )
    message = refusal(tmp_path, json.loads(scheduler.to_json_string()))
    assert "timestep_type 'continuous' is not supported" in message
    discrete = EulerDiscreteScheduler(prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0)
    schedule, _ = read(tmp_path, json.loads(discrete.to_json_string()))
    assert schedule.sigma_max == pytest.approx(157.4, abs=0.1)  # those limits are of sampling alone


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    """Brackets within brackets, and characters that are no UTF-8."""
    path = tmp_path / "scheduler_config.json"
    for content in (b"[" * 200_000, b'{"a": ' * 200_000, '{"ä": 1}'.encode("latin-1"), b"1" * 10_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"scheduler_config\.json is not (JSON|a JSON object)") as caught:
            read_scheduler(tmp_path)
        assert len(str(caught.value)) < 500


def test_levels_of_any_schedule() -> None:
    check_levels(EDMSchedule(), "x")
    check_levels(VPSchedule(torch.full((2,), 0.1)), "x")
    with pytest.raises(UserError, match=r"^x are no noise levels: all must be increasing, found σ = 1$"):
        check_levels(EDMSchedule(1.0, 1.0), "x")
    with pytest.raises(UserError, match=r"^x are no noise levels: found 0, at least two are needed$"):
        check_levels(VPSchedule(torch.empty(0)), "x")


SHIFTS = [{"shift": 1.0}, {"shift": 3.0}, {"shift": 0.5}, {"shift": 6.0, "num_train_timesteps": 50}]


@pytest.mark.parametrize("settings", SHIFTS)
def test_levels_of_a_flow_are_eulers(tmp_path: Path, settings: dict[str, Any]) -> None:
    """t of its table, falling there and rising here, and the timesteps that go with them."""
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    schedule, precondition = read(tmp_path, json.loads(scheduler.to_json_string()))
    t = 1 - 1 / (1 + schedule.table)
    torch.testing.assert_close(t.float(), scheduler.sigmas.flip(0), rtol=0, atol=1e-6)
    told = precondition(schedule.table).c_noise
    torch.testing.assert_close(told.float(), scheduler.timesteps.flip(0), rtol=1e-6, atol=1e-4)
    assert float(t[-1]) == 1
    assert math.isinf(schedule.sigma_max)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096, 100])
def test_a_shift_by_size_is_the_pipelines(tmp_path: Path, tokens: int, kind: str) -> None:
    """Flux's calculate_shift, then set_timesteps(sigmas, mu): every level of 1000 steps."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift=3.0, time_shift_type=kind, base_shift=0.5, max_shift=1.15
    )
    c = scheduler.config
    (tmp_path / "scheduler_config.json").write_text(scheduler.to_json_string())
    schedule, _ = parametrisation(read_scheduler(tmp_path), tmp_path, tokens)
    mu = calculate_shift(tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 1000, 1000), mu=mu)
    assert isinstance(schedule, FlowSchedule)
    t = 1 - 1 / (1 + schedule.table)
    torch.testing.assert_close(t.float(), scheduler.sigmas[:-1].flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_levels_of_a_solver_on_a_flow(tmp_path: Path, shift: float) -> None:
    """UniPC (from t = 1 − 1e-6 on) and DPM-Solver (from 1 − 1/T on) with use_flow_sigmas: each level of N
    steps is on our path, with T t as its timestep, which they round down."""
    for kind in (UniPCMultistepScheduler, DPMSolverMultistepScheduler):
        scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
        schedule, _ = read(tmp_path, json.loads(scheduler.to_json_string()))
        assert schedule == FlowSchedule(1000, shift)
        scheduler.set_timesteps(1000)
        places = torch.linspace(1, 1 / 1000, 1001, dtype=torch.float64)
        places = places[:-1] if kind is UniPCMultistepScheduler else (1 - places).flip(0)[:-1]
        exact = shift * places / (1 + (shift - 1) * places)
        theirs = torch.as_tensor(scheduler.sigmas[:-1]).double()
        torch.testing.assert_close(theirs, exact, rtol=0, atol=2e-6)
        told = schedule.timestep(exact / (1 - exact))
        difference = told - scheduler.timesteps.double()
        assert ((difference > -1e-2) & (difference < 1.01)).all()


def test_zero_signal_at_the_end(tmp_path: Path) -> None:
    """rescale_betas_zero_snr with v-prediction: σ = ∞ last, the other levels diffusers' own."""
    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    schedule, precondition = read(tmp_path, json.loads(scheduler.to_json_string()))
    kept = 1 / (1 + schedule.table**2)
    torch.testing.assert_close(kept.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert math.isinf(schedule.sigma_max)
    c = precondition(schedule.table)
    assert all(part.isfinite().all() for part in c)
    assert (float(c.signal[-1]), float(c.noise[-1])) == (0.0, 1.0)


def test_a_picture_far_beyond_the_shift(tmp_path: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    (tmp_path / "scheduler_config.json").write_text(scheduler.to_json_string())
    with pytest.raises(UserError, match=r"10,000,000 tokens shift its levels by e\^1693; "):
        parametrisation(read_scheduler(tmp_path), tmp_path, 10_000_000)
