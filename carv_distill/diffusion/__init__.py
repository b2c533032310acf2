"""Frozen diffusion teachers behind one face: ``denoised = D(x_t, sigma, cond)`` with x_t = x + σ ε."""

from .denoiser import (
    Denoiser,
    EDMPreconditioning,
    EpsPreconditioning,
    GuidedDenoiser,
    NetworkDenoiser,
    SamplePreconditioning,
    VPreconditioning,
    denoised_difference,
)
from .exact import EmpiricalDenoiser, GaussianDenoiser, GaussianMixtureDenoiser
from .sampler import heun_sample
from .schedule import EDMSchedule, LogNormalSchedule, NoiseSchedule, VPSchedule
from .teacher import Teacher, load_teacher, save_teacher

__all__ = [
    "Denoiser",
    "EDMPreconditioning",
    "EDMSchedule",
    "EmpiricalDenoiser",
    "EpsPreconditioning",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "GuidedDenoiser",
    "LogNormalSchedule",
    "NetworkDenoiser",
    "NoiseSchedule",
    "SamplePreconditioning",
    "Teacher",
    "VPSchedule",
    "VPreconditioning",
    "denoised_difference",
    "heun_sample",
    "load_teacher",
    "save_teacher",
]
