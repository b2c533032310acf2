"""idx files, the format of MNIST and its kin: type and shape, then the numbers; as they are, or under gzip.

Not torchvision's reader: it takes unpacked files alone, and says of one that is cut that an assertion failed.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carv_distill.errors import UserError, one_line

GZIP = b"\x1f\x8b"
BYTES = b"\0\0\x08"
"""How a file of unsigned bytes begins; the number of dimensions follows, and each dimension in four bytes."""


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The bytes of an idx file, uint8 of as many dimensions as are asked for.

    Args:
        path: plain or compressed; the content says which, not the name.

    Raises:
        UserError: a file that cannot be read, is damaged or cut, or holds something else.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits (1998), "the IDX file format".
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is damaged: not a whole gzip file ({one_line(error)}); fetch it anew"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    start = 4 + 4 * dimensions
    if content[:4] != BYTES + bytes([dimensions]) or len(content) < start:
        raise UserError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}; an idx file of bytes in {dimensions} "
            f"dimensions begins with {(BYTES + bytes([dimensions])).hex(' ')} and their sizes"
        )
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    size = len(content) - start
    if size != math.prod(shape):
        wanted = "×".join(map(str, shape))
        raise UserError(f"{path} is damaged: {size} bytes, its header says {wanted}; fetch it anew")
    pixels = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(pixels.copy())  # a buffer of bytes may not be written to
