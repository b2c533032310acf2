"""Random projections of per-sample gradients, by parameter: an independent one for each parameter's name and
each checkpoint, summed over the parameters.

So a gradient is projected while it arrives, parameter by parameter in any order, and is never whole; and what
a subset of the parameters adds to a feature is the same in every gradient that it is part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from carv_distill.attribution.options import PROJECTIONS
from carv_distill.carv import stream
from carv_distill.variance import CountSketch
from carv_distill.variance.projection import random_signs

# Entries of a dense projection drawn at a time. Another value names other projections.
BLOCK = 1 << 22
KEPT = 1 << 22
"""Entries of gradients whose signs a projector keeps, a byte each: all of a small network's, for which to
draw them again costs more than to use them."""


@dataclass(frozen=True)
class Layout:
    """What a gradient is made of."""

    sizes: Mapping[str, int]
    """Entries of each parameter by name, in the gradient's order."""
    dtype: torch.dtype
    """In which it is summed."""
    device: torch.device

    @property
    def dimension(self) -> int:
        """d, entries of a gradient."""
        return sum(self.sizes.values())


class Sum(Protocol):
    """The projection of n gradients in the making."""

    def add(self, name: str, gradient: Tensor) -> None:
        """What a parameter's gradient [n, d_p] adds to the features."""
        ...

    def features(self) -> Tensor:
        """[n, m], of what was added; a parameter that never came has no gradient."""
        ...


class Projector(Protocol):
    """A linear map of gradients that is a sum over parameters."""

    def begin(self, layout: Layout, rows: int, model_id: int = 0) -> Sum:
        """Nothing added yet, for n = `rows` gradients of a layout; `model_id` names the projection of one of
        several checkpoints."""
        ...


class WholeProjector(Protocol):
    """Anything with this method, TRAK's own projectors among them."""

    def project(self, grads: Tensor, model_id: int) -> Tensor:
        """Gradients [n, d] → features [n, m]."""
        ...


class NoProjector:
    """The gradients themselves: m = d."""

    def begin(self, layout: Layout, rows: int, model_id: int = 0) -> JoinedSum:
        """See :class:`Projector`."""
        return JoinedSum(layout, rows)

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others."""
        return {"kind": "none"}


class JoinedSum:
    """Gradients side by side, [n, d]."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self._joined = torch.zeros(rows, layout.dimension, dtype=layout.dtype, device=layout.device)
        parts = self._joined.split([*layout.sizes.values()], dim=1)
        self._parts = dict(zip(layout.sizes, parts, strict=True))

    def add(self, name: str, gradient: Tensor) -> None:
        """See :class:`Sum`."""
        self._parts[name].add_(gradient)

    def features(self) -> Tensor:
        """See :class:`Sum`."""
        return self._joined


class SumWithNorm:
    """A projection with ‖g‖ as one more feature, [n, m + 1]."""

    def __init__(self, total: Sum) -> None:
        self._total = total
        self._norms: dict[str, Tensor] = {}

    def add(self, name: str, gradient: Tensor) -> None:
        """See :class:`Sum`; each parameter comes once."""
        if name in self._norms:
            raise RuntimeError(f"the gradient by {name} came in two parts, so its norm is not known")
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        self._norms[name] = torch.linalg.vector_norm(wide, dim=1)
        self._total.add(name, gradient)

    def features(self) -> Tensor:
        """[n, m + 1]."""
        features = self._total.features()
        norms = [norm.to(features.dtype) for norm in self._norms.values()]
        whole = torch.stack(norms, 1).norm(dim=1) if norms else features.new_zeros(len(features))
        return torch.cat([features, whole[:, None]], 1)


class Adapted:
    """Someone else's projector, which takes whole gradients: they are joined first, d numbers for each."""

    def __init__(self, projector: WholeProjector) -> None:
        self.projector = projector

    def begin(self, layout: Layout, rows: int, model_id: int = 0) -> AdaptedSum:
        """See :class:`Projector`."""
        return AdaptedSum(self.projector, JoinedSum(layout, rows), model_id)


class AdaptedSum:
    """Joined gradients on their way to a projector."""

    def __init__(self, projector: WholeProjector, joined: JoinedSum, model_id: int) -> None:
        self._projector, self._model_id = projector, model_id
        self.add, self._joined = joined.add, joined

    def features(self) -> Tensor:
        """See :class:`Sum`."""
        return self._projector.project(self._joined.features(), self._model_id)


class SketchProjector:
    """One :class:`CountSketch` for each parameter and `model_id`: time O(n d), whatever m.

    Over the seeds E⟨S g, S g'⟩ = ⟨g, g'⟩ with variance at most (‖g‖²‖g'‖² + ⟨|g|, |g'|⟩²)/m.

    Args:
        size: m ≥ 1.
        seed: with `model_id` and the parameter's name, names the projection.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        CountSketch(size)  # refuses a size below 1
        self.size, self.seed = size, seed
        self._sketches: dict[tuple[int, str], CountSketch] = {}
        self._room = KEPT

    def begin(self, layout: Layout, rows: int, model_id: int = 0) -> SketchSum:
        """See :class:`Projector`."""
        return SketchSum(self, layout, rows, model_id)

    def sketch(self, model_id: int, name: str, count: int) -> CountSketch:
        """That of a parameter of `count` entries."""
        if (model_id, name) not in self._sketches:
            keep = count <= self._room
            self._room -= count * keep
            seed = stream(self.seed, "model", model_id, name).initial_seed()
            self._sketches[model_id, name] = CountSketch(self.size, seed, keep)
        return self._sketches[model_id, name]

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others."""
        return {"kind": "countsketch", "size": self.size, "seed": self.seed, "by": "parameter"}


class SketchSum:
    """Σ_p S_p g_p."""

    def __init__(self, projector: SketchProjector, layout: Layout, rows: int, model_id: int) -> None:
        self._projector, self._model_id = projector, model_id
        self._circle = torch.zeros(rows, 2 * projector.size, dtype=layout.dtype, device=layout.device)

    def add(self, name: str, gradient: Tensor) -> None:
        """See :class:`Sum`."""
        self._projector.sketch(self._model_id, name, gradient.shape[1]).add(self._circle, gradient)

    def features(self) -> Tensor:
        """See :class:`Sum`."""
        return CountSketch.folded(self._circle)


class DenseProjector:
    """Σ_p g_p P_p/√m with independent entries of P [d, m]: N(0, 1), or ±1. Time O(n d m), TRAK's choice.

    Over the seeds E⟨P g, P g'⟩/m = ⟨g, g'⟩ with variance (‖g‖²‖g'‖² + ⟨g, g'⟩²)/m, for signs at most that.
    P is never whole: blocks of its rows are drawn again at each use, each a function of the seed, `model_id`,
    the parameter's name and its number. Signs are the same on every device; normal numbers are drawn where
    the gradients are, so those of a GPU are not those of the CPU.

    Args:
        kind: gaussian or rademacher.
        size: m ≥ 1.
        seed: with `model_id` and the parameter's name, names the projection.

    Source: Johnson, Lindenstrauss (1984); Achlioptas (2003), signs; Park et al. (2023), TRAK.
    """

    def __init__(self, kind: str, size: int, seed: int = 0) -> None:
        if kind not in ("gaussian", "rademacher"):
            raise ValueError(f"a dense projection is gaussian or rademacher, found {kind!r}")
        if size < 1:
            raise ValueError(f"a projection's size must be at least 1, found {size}")
        self.kind, self.size, self.seed = kind, size, seed

    def begin(self, layout: Layout, rows: int, model_id: int = 0) -> DenseSum:
        """See :class:`Projector`."""
        return DenseSum(self, layout, rows, model_id)

    def rows(self, model_id: int, name: str, number: int, count: int, device: torch.device) -> Tensor:
        """The entries [count, m] of one block, float32 or int8."""
        key = (self.seed, self.kind, model_id, name, number)
        if self.kind == "rademacher":
            return random_signs(count * self.size, stream(*key), device).view(count, self.size)
        return torch.randn(count, self.size, generator=stream(*key, device=device), device=device)

    def describe(self) -> dict[str, str | int]:
        """What tells these features from others, but for the device of Gaussian ones."""
        return {"kind": self.kind, "size": self.size, "seed": self.seed, "by": "parameter"}


class DenseSum:
    """Σ_p g_p P_p."""

    def __init__(self, projector: DenseProjector, layout: Layout, rows: int, model_id: int) -> None:
        self._projector, self._model_id = projector, model_id
        self._sum = torch.zeros(rows, projector.size, dtype=layout.dtype, device=layout.device)

    def add(self, name: str, gradient: Tensor) -> None:
        """See :class:`Sum`."""
        total, p = self._sum, self._projector
        for number, part in enumerate(gradient.split(max(1, BLOCK // p.size), dim=1)):
            # no name for the entries: it would keep one block while the next is drawn
            total.addmm_(
                part.to(total.dtype),
                p.rows(self._model_id, name, number, part.shape[1], part.device).to(total.dtype),
            )

    def features(self) -> Tensor:
        """See :class:`Sum`."""
        return self._sum / self._projector.size**0.5


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
