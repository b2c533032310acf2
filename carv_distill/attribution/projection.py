"""Random projections of per-sample gradients, an independent one for each checkpoint."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.variance import CountSketch
from carv_distill.variance.projection import random_signs

from .options import PROJECTIONS

# Entries of a dense projection drawn at a time. Another value names other projections.
BLOCK = 1 << 22


class Projector(Protocol):
    """Anything with this method, TRAK's own projectors among them."""

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        """Gradients [n, d] → features [n, m]; `model_id` names the projection."""
        ...


class NoProjector:
    """The gradients themselves: m = d."""

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        """g [n, d] → g."""
        return grads

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others."""
        return {"kind": "none"}


class SketchProjector:
    """One :class:`CountSketch` for each `model_id`: time O(n d), whatever m.

    Over the seeds E⟨S g, S g'⟩ = ⟨g, g'⟩ with variance at most (‖g‖²‖g'‖² + ⟨|g|, |g'|⟩²)/m.

    Args:
        size: m ≥ 1.
        seed: with `model_id`, names the projection.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        CountSketch(size)  # refuses a size below 1
        self.size, self.seed = size, seed

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        """g [n, d] → S g [n, m] in at least float32."""
        return CountSketch(self.size, stream(self.seed, "model", model_id).initial_seed())(grads)

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others."""
        return {"kind": "countsketch", "size": self.size, "seed": self.seed}


class DenseProjector:
    """g P/√m with independent entries of P [d, m]: N(0, 1), or ±1. Time O(n d m), TRAK's choice.

    Over the seeds E⟨P g, P g'⟩/m = ⟨g, g'⟩ with variance (‖g‖²‖g'‖² + ⟨g, g'⟩²)/m, for signs at most that.
    P is never whole: blocks of its rows are drawn again at each call, each a function of the seed,
    `model_id` and its number. Signs are the same on every device; normal numbers are drawn where the
    gradients are, so those of a GPU are not those of the CPU.

    Args:
        kind: gaussian or rademacher.
        size: m ≥ 1.
        seed: with `model_id`, names the projection.

    Source: Johnson, Lindenstrauss (1984); Achlioptas (2003), signs; Park et al. (2023), TRAK.
    """

    def __init__(self, kind: str, size: int, seed: int = 0) -> None:
        if kind not in ("gaussian", "rademacher"):
            raise ValueError(f"a dense projection is gaussian or rademacher, found {kind!r}")
        if size < 1:
            raise ValueError(f"a projection's size must be at least 1, found {size}")
        self.kind, self.size, self.seed = kind, size, seed

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        """g [n, d] → g P/√m [n, m] in at least float32."""
        dtype = torch.promote_types(grads.dtype, torch.float32)
        out = torch.zeros(len(grads), self.size, dtype=dtype, device=grads.device)
        for number, part in enumerate(grads.split(max(1, BLOCK // self.size), dim=1)):
            # no name for the entries: it would keep one block while the next is drawn
            out.addmm_(part.to(dtype), self._rows(part.shape[1], (model_id, number), grads.device).to(dtype))
        return out.div_(self.size**0.5)

    def _rows(self, count: int, block: tuple[int, int], device: torch.device) -> Tensor:
        """The entries [count, m] of one block, float32 or int8."""
        key = (self.seed, self.kind, *block)
        if self.kind == "rademacher":
            return random_signs(count * self.size, stream(*key), device).view(count, self.size)
        return torch.randn(count, self.size, generator=stream(*key, device=device), device=device)

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others, but for the device of Gaussian ones."""
        return {"kind": self.kind, "size": self.size, "seed": self.seed}


def build_projector(kind: str, size: int, seed: int = 0) -> NoProjector | SketchProjector | DenseProjector:
    """The projector of a name in `PROJECTIONS`; "none" has no use for size and seed.

    Raises:
        ValueError: another name, or a size below 1.
    """
    if kind not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}; found {kind!r}")
    if kind == "none":
        return NoProjector()
    return SketchProjector(size, seed) if kind == "countsketch" else DenseProjector(kind, size, seed)
