"""Data attribution: which training samples a diffusion model's loss depends on."""
