"""Files of numbers, of samples of a data set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from carv_distill.errors import UserError

ONLY = "data.only"
"""The key of the numbers that a training set is restricted to."""


def read_numbers(path: str | Path, count: int, key: str) -> Tensor:
    """Distinct numbers from 0 to `count` − 1, separated by blanks or line ends, in order, int64 [n].

    Args:
        key: what named the file, for messages.

    Raises:
        UserError: no such file, none in it, or one that is no number in this range.
    """
    try:
        words = Path(path).read_text(encoding="utf-8").split()
        numbers = sorted({int(word) for word in words})
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{key}: {path} holds something else than numbers") from error
    if not numbers or not (numbers[0] >= 0 and numbers[-1] < count):
        raise UserError(f"{key}: {path} has no numbers, or others than 0 to {count - 1}")
    return torch.tensor(numbers, dtype=torch.int64)
