"""How many samples to work through at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

log = logging.getLogger(__name__)

GAIN = 0.9
"""A doubled chunk must take less than this share of the seconds per sample to be worth its memory."""
COPIES = 4
"""Gradients of a sample that exist at a time: by parameter, joined, and what the projection makes of them."""


def find_chunk(work: Callable[[int], object], row_bytes: int, largest: int, device: torch.device) -> int:
    """The chunk from which on doubling it no longer pays, or that memory allows.

    Args:
        work: does it for so many samples.
        row_bytes: of one sample's gradient.
        largest: as many samples as there are.
        device: whose memory counts; on a CPU at most a quarter of what is free is planned for.
    """
    if device.type == "cpu":
        fits = psutil.virtual_memory().available // 4 // (COPIES * row_bytes)
        largest = max(1, min(largest, fits))
    chunk, best = 1, float("inf")
    size = min(4, largest)
    while True:
        try:
            work(size)  # warms up
            seconds = _seconds(work, size, device) / size
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            torch.cuda.empty_cache()
            break
        if seconds > GAIN * best:
            break
        chunk, best = size, seconds
        if size == largest:
            break
        size = min(2 * size, largest)
    log.info("chunks of %d samples: %.3g ms each", chunk, 1e3 * best)
    return chunk


def _seconds(work: Callable[[int], object], size: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
