"""Lower-variance gradients from frozen diffusion teachers (CARV)."""

__version__ = "0.1.0"
