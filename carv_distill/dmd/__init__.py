"""Distribution matching distillation: a frozen teacher becomes a one-step generator."""

from carv_distill.options.dmd import DMDOptions

from .losses import dmd_residual
from .module import DMDModule

__all__ = ["DMDModule", "DMDOptions", "dmd_residual"]
