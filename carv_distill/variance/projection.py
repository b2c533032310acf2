"""A seeded random projection that keeps squared norms and inner products in expectation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from carv_distill.carv import stream

# Coordinates whose signs are drawn at a time, a multiple of 64. Another value names other projections.
BLOCK = 1 << 20


class CountSketch:
    """S g ∈ ℝ^m of vectors g ∈ ℝ^d: (S g)_b = Σ_{i: h(i) = b} s(i) g_i with independent signs s = ±1.

    Coordinates come in consecutive blocks of m, each turned by its own uniform shift: h(i) = (i + c) mod m,
    so that vectors are read once and in order. Two coordinates of one block never meet, two of different
    blocks do with probability 1/m. With independent signs, a probability of at most 1/m for each pair is all
    it takes: over the seeds E⟨S g, S g'⟩ = ⟨g, g'⟩ and

        Var ‖S g‖² = 2 Σ_{i≠j} P[h(i) = h(j)] g_i² g_j² ≤ 2‖g‖⁴/m,

    so every variance that is a trace survives, with one sketch for all replicates. What one sketch gets
    wrong, up to √(2/m) of the whole, is common to all replicates and in no interval; for d ≤ m it is
    nothing. Shifts and signs are drawn again at each call: memory is O(m) for each vector and one working
    block. They are drawn on the CPU, so the projection is the same on every device.

    Args:
        size: m ≥ 1.
        seed: names the projection.
        keep: signs are drawn once and kept, a byte for each coordinate.

    Source: Charikar, Chen, Farach-Colton (2002); Weinberger et al. (2009), feature hashing.
    """

    def __init__(self, size: int, seed: int = 0, keep: bool = False) -> None:
        if size < 1:
            raise ValueError(f"a projection's size must be at least 1, found {size}")
        self.size, self.seed = size, seed
        self._kept: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] | None = {} if keep else None

    @property
    def keeps(self) -> bool:
        """Whether it keeps its signs."""
        return self._kept is not None

    def __call__(self, vectors: Tensor) -> Tensor:
        """g [..., d] → S g [..., m], on the same device, summed and returned in at least float32."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        x = vectors.reshape(-1, vectors.shape[-1])
        circle = torch.zeros(len(x), 2 * self.size, dtype=dtype, device=x.device)
        self.add(circle, x)
        return self.folded(circle).reshape(*vectors.shape[:-1], self.size)

    def add(self, circle: Tensor, vectors: Tensor) -> None:
        """Adds S g of vectors g [n, d] to [n, 2m], of which :meth:`folded` makes the sketch: several sketches
        of one size are summed in one place."""
        add = _add_gathered if vectors.is_cuda else _add_slices
        block = max(1, BLOCK // self.size) * self.size
        parts = vectors.split(block, dim=1) if vectors.shape[1] > block else (vectors,)
        for number, part in enumerate(parts):
            shifts, signs = self._drawn(number, part.shape[1], part.device)
            add(circle, part, shifts, signs)

    @staticmethod
    def folded(circle: Tensor) -> Tensor:
        """[n, 2m] → [n, m]."""
        first, second = circle.chunk(2, dim=1)
        return first + second

    def _drawn(self, number: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Shifts on the CPU and int8 signs [count] of a working block."""
        key = number, count, device
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        g = stream(self.seed, "sketch", number)
        shifts = torch.randint(self.size, (-(-count // self.size),), generator=g)
        drawn = shifts, random_signs(count, g, device)
        if self._kept is not None:
            self._kept[key] = drawn
        return drawn


def random_signs(count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Independent ±1 [count] int8 of a CPU generator, one bit each, unpacked on `device`."""
    words = torch.empty(-(-count // 64), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    eight = torch.arange(8, dtype=torch.uint8, device=device)
    bits = (_moved(words.view(torch.uint8), device)[:, None] >> eight) & 1
    return (1 - 2 * bits.view(torch.int8)).flatten()[:count]


def _add_slices(sums: Tensor, x: Tensor, shifts: Tensor, signs: Tensor) -> None:
    """Adds each block, shifted, to sums [n, 2m], whose halves are one circle, in one pass over x.

    By numpy, whose views cost a tenth of torch's: for a gradient by a small parameter they are most of it.
    """
    if x.dtype != sums.dtype or x.requires_grad:
        x = x.detach().to(sums.dtype)
    out, vectors, s = sums.numpy(), x.numpy(), signs.numpy()
    size, start = out.shape[1] // 2, 0
    for shift in shifts.tolist():
        part = vectors[:, start : start + size]
        out[:, shift : shift + part.shape[1]] += part * s[start : start + size]
        start += size


def _add_gathered(sums: Tensor, x: Tensor, shifts: Tensor, signs: Tensor) -> None:
    """The same with few kernels, for a device where one of a block's size is all overhead."""
    size, blocks = sums.shape[1] // 2, len(shifts)
    column = torch.arange(size, device=x.device)
    source = (column - _moved(shifts, x.device)[:, None]) % size
    source += size * torch.arange(blocks, device=x.device)[:, None]
    rows = max(1, BLOCK // x.shape[1])  # as many vectors at a time as fit the working block
    for part, out in zip(x.split(rows), sums[:, :size].split(rows), strict=True):
        signed = pad(part.to(sums.dtype) * signs, (0, blocks * size - x.shape[1]))
        out += signed.index_select(1, source.flatten()).view(len(part), blocks, size).sum(1)


def _moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on `device`; page-locked, so that the host does not wait for a GPU."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
