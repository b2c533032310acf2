"""Draws that an attribution needs, by sampler: variance, rankings, and what they are worth in retraining."""
