"""Frozen diffusion teachers behind one face: ``denoised = D(x_t, sigma, cond)`` with x_t = x + σ ε."""
