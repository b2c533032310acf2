"""Data sets: images in [-1, 1] with integer labels or prompts, in memory or in files."""
