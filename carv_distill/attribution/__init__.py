"""Data attribution: which training samples shaped what a diffusion model does with given ones."""
