"""FastGen's DMD2 of CIFAR-10, with four stratified re-noisings of each generated sample.

    PYTHONPATH=. torchrun --nproc_per_node=8 --standalone train.py \
        --config fastgen_carv/config_dmd2_cifar10.py - trainer.ddp=True model.draws=8
"""

from __future__ import annotations

from typing import Any

import attrs
from fastgen.configs.experiments.EDM.config_dmd2_cifar10 import create_config as create_dmd2_config
from fastgen.configs.methods.config_dmd2 import ModelConfig as DMD2ModelConfig
from fastgen.utils import LazyCall

from .model import CARVDMD2Model


@attrs.define(slots=False)
class ModelConfig(DMD2ModelConfig):
    """DMD2's keys, and these."""

    draws: int = 4
    """K, re-noisings of each generated sample in a student update."""
    strategy: str = "stratified"
    """How their t are spread: iid, or a name of `carv_distill.carv.STRATEGIES`."""
    chunk: int | None = None
    """Re-noisings per call of fake score and teacher; None: all of them."""


def carv(config: Any) -> Any:
    """Any configuration of DMD2, its model replaced by this one."""
    keys = {a.name: getattr(config.model, a.name) for a in attrs.fields(type(config.model))}
    config.model = ModelConfig(**keys)
    config.model_class = LazyCall(CARVDMD2Model)(config=None)
    return config


def create_config() -> Any:
    """What FastGen reads of this file."""
    return carv(create_dmd2_config())
