"""Distribution matching distillation: a frozen teacher becomes a one-step generator."""

from .losses import dmd_residual
from .module import DMDModule, DMDOptions

__all__ = ["DMDModule", "DMDOptions", "dmd_residual"]
