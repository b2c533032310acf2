"""Configuration, run folder, traces and checkpoints: what makes a run of a module."""
