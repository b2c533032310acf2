"""How many samples, or draws, to work through at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

log = logging.getLogger(__name__)

GAIN = 0.9
"""A larger chunk must take less than this share of the seconds per sample to be worth its memory."""
COPIES = 4
"""Gradients of a sample that exist at a time: by parameter, joined, and what the projection makes of them."""


def find_chunk(
    work: Callable[[int], object], row_bytes: int, largest: int, device: torch.device, what: str = "samples"
) -> int:
    """The fastest of the chunks 1, 2, 4, …, up to where two in a row bring nothing, or memory ends.

    Args:
        work: does it for so many.
        row_bytes: of what one adds: a sample's gradient, or a draw.
        largest: as many as there are.
        device: whose memory counts. On a CPU, where there is no warning before it ends, these may take a
            quarter of what is free; the network's activations come on top.
        what: is counted, for the log.

    Raises:
        torch.OutOfMemoryError: a single one does not fit.
    """
    if device.type == "cpu":
        fits = psutil.virtual_memory().available // 4 // (COPIES * row_bytes)
        largest = max(1, min(largest, fits))
    chunk, best, in_vain, size = 1, math.inf, 0, 1
    while size <= largest and in_vain < 2:
        try:
            work(size)  # warms up
            seconds = _seconds(work, size, device) / size
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
            torch.cuda.empty_cache()
            break
        if seconds < GAIN * best:
            chunk, best, in_vain = size, seconds, 0
        else:
            in_vain += 1
        size = largest if size < largest < 2 * size else 2 * size
    log.info("chunks of %d %s: %.3g ms each", chunk, what, 1e3 * best)
    return chunk


def _seconds(work: Callable[[int], object], size: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
