"""Random backgrounds: noise whose spectrum falls as a power of the frequency, about a random colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NOISES, CHOICES = 4, 6
"""Channels of noise that a backdrop takes, and uniform numbers."""
EXPONENT, CONTRAST, SHADE = (0.8, 2.0), (0.04, 0.30), (0.15, 0.85)


def backdrops(noise: Tensor, choice: Tensor) -> Tensor:
    """Pictures [n, 3, S, S] in [0, 1]: m + c n_b, clamped, with n_b of unit variance and amplitude f^−b.

    The exponent b is uniform in 0.8 … 2, the contrast c in 0.04 … 0.30, each channel of the mean colour m in
    0.15 … 0.85; the channels of n_b share a uniform part of their variance, from none, which is colourful,
    to all, which is grey. All of it is a function of what is given.

    Args:
        noise: N(0, 1), [n, 4, S, S]; the last channel is what the colours share.
        choice: uniform in [0, 1], [n, 6].

    Source: spectra of natural pictures fall as 1/f (Field 1987, J. Opt. Soc. Am. A 4).
    """
    exponent, contrast, common = choice[:, :3].unbind(1)
    side = noise.shape[-1]
    frequency = _frequencies(side, noise)
    # the mean has a place of its own, m
    falls = torch.where(frequency > 0, frequency.clamp(min=1 / side), torch.inf)
    amplitude = falls ** -_between(EXPONENT, exponent).view(-1, 1, 1, 1)
    amplitude = amplitude / _power(amplitude, side).sqrt().view(-1, 1, 1, 1)
    share = common.view(-1, 1, 1, 1)
    mixed = share.sqrt() * noise[:, 3:] + (1 - share).sqrt() * noise[:, :3]
    shaped = torch.fft.irfft2(torch.fft.rfft2(mixed) * amplitude, s=(side, side))
    shade = _between(SHADE, choice[:, 3:])[:, :, None, None]
    return (shade + _between(CONTRAST, contrast).view(-1, 1, 1, 1) * shaped).clamp(0, 1)


def drifted(picture: Tensor, way: tuple[float, float], time: Tensor) -> Tensor:
    """A picture that goes on beyond its borders as a pattern does, moved by `way` · time: [F, 3, S, S].

    By its Fourier series, so that nothing is blurred between pixels: B(f) exp(−2πi f · way · time · S).

    Args:
        picture: [3, S, S] in [0, 1].
        way: right and down, as a share of the side.
        time: [F] in 0 … 1.
    """
    if way == (0.0, 0.0):
        return picture.expand(len(time), -1, -1, -1)
    side = picture.shape[-1]
    across, down = torch.fft.rfftfreq(side) * side, torch.fft.fftfreq(side) * side
    turns = time[:, None] * way[0] * across, time[:, None] * way[1] * down
    by_x, by_y = (torch.polar(torch.ones_like(t), -2 * math.pi * t) for t in turns)
    moved = torch.fft.rfft2(picture) * (by_y[:, :, None] * by_x[:, None, :])[:, None]
    return torch.fft.irfft2(moved, s=(side, side)).clamp_(0, 1)


def _frequencies(side: int, like: Tensor) -> Tensor:
    """|f| of a real transform's entries, [S, S/2 + 1], cycles per pixel."""
    rows = torch.fft.fftfreq(side, device=like.device, dtype=like.dtype)
    columns = torch.fft.rfftfreq(side, device=like.device, dtype=like.dtype)
    return (rows[:, None].square() + columns.square()).sqrt()


def _power(amplitude: Tensor, side: int) -> Tensor:
    """Mean of |amplitude|² over the whole spectrum, of which the real transform has half: [n]."""
    twice = amplitude.new_full(amplitude.shape[-1:], 2.0)
    twice[0] = 1
    if side % 2 == 0:
        twice[-1] = 1
    return (amplitude.square() * twice).sum((-1, -2)).flatten() / side**2


def _between(ends: tuple[float, float], v: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * v
