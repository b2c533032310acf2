"""Samples: what a loss takes of them, sets of them, and what of them is encoded once."""
