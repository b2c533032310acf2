"""The cameras that a configuration asks for, and those of a run's steps."""

from __future__ import annotations

import math

import torch

from carv_distill.carv import stream
from carv_distill.geometry.camera import Cameras, CameraSampler

from .options import CameraOptions, SDSConfig


def build_cameras(options: CameraOptions) -> CameraSampler:
    """What draws the cameras of a step."""
    o = options
    distance, fov, elevation = ((low, high) for low, high in (o.distance, o.fov, o.elevation))
    noises = o.position_noise, o.centre_noise, o.up_noise
    return CameraSampler(distance, fov, elevation, o.sampling, *noises)


def latest_cameras(config: SDSConfig, step: int, count: int, device: str) -> list[Cameras]:
    """The cameras of the first process's renders at the last updates of `step`, the newest first, until there
    are `count`.

    They are drawn anew from the streams of those updates, of which they are the first numbers: on the kind of
    device that trained they are the very same.
    """
    sampler, upstream = build_cameras(config.camera), config.estimator.upstream
    dtype = torch.float64 if config.trainer.precision == "64-true" else torch.float32
    steps = range(step - 1, max(step - 1 - math.ceil(count / upstream), -1), -1)
    streams = (stream(config.seed, 0, "sds", number, device=device) for number in steps)
    return [sampler.sample(upstream, own, dtype) for own in streams]
