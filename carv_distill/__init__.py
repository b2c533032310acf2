"""Lower-variance gradients from frozen diffusion teachers (CARV)."""

__version__ = "0.2.0"
