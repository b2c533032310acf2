"""Draws that an attribution needs, by sampler: variance, rankings, and what they are worth in retraining.

`__main__` is the study; `models` what is attributed; `arms` the samplers; each part has its module.
"""
