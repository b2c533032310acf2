"""Parameter gradients of the denoising loss, sample by sample, for draws (u, ε) that all samples share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from carv_distill.carv import Draws
from carv_distill.carv.estimator import Residual
from carv_distill.errors import UserError
from carv_distill.options import nearest
from carv_distill.teachers.condition import Cond, repeated
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_losses
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.variance import Pipeline

from .attention import PlainAttention
from .options import PRECISIONS
from .projection import Projector


class SampleGradients:
    """ḡ(x) = ∇φ 1/K Σ_k ω_k ℓ(φ; x, c, u_k, ε_k), ℓ the denoising loss (:func:`denoising_losses`).

    ``vmap(grad(…))`` over the samples. The draws are arguments of the loss, the same for every sample:
    what two samples' gradients have in common by their draws is then common, and nothing random is left
    inside. The K draws of a sample are one batch of one backward, so no draw's own gradient is ever stored.

    Args:
        denoiser: its parameters are read, never changed. Any trailing shape of x.
        schedule: u → σ; with u uniform, the distribution of noise levels in the loss: that of the training
            where it is known.
        patterns: the gradient is by the parameters whose names in the network match one of these, as
            ``up_blocks.*.weight``.
        precision: fp32 | bf16, in which the network computes; gradients have the parameters' type.

    Raises:
        UserError: no parameter of the network matches, or a pattern matches none.

    Source: arXiv 2303.14186 (TRAK), section 3; arXiv 2605.21489, section 5.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        schedule: NoiseSchedule,
        patterns: Sequence[str] = ("*",),
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
        self._loss = _MeanLoss(denoiser, schedule)
        self._bf16 = precision == "bf16"
        self.names = matching([n for n, _ in denoiser.network.named_parameters()], patterns)
        """Of the parameters, in their order in a gradient."""
        parameters = dict(denoiser.network.named_parameters())
        self._parameters = {f"denoiser.network.{n}": parameters[n].detach() for n in self.names}

    @property
    def dimension(self) -> int:
        """d, entries of a gradient."""
        return sum(p.numel() for p in self._parameters.values())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self._parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of a gradient."""
        return next(iter(self._parameters.values())).dtype

    def __call__(self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        """ḡ of each sample, [n, d].

        Args:
            x: [n, …].
            cond: labels [n], the condition of n prompts, or None.
            u, weight: [K], shared by the samples.
            eps: [K, …].
        """
        return self._by_sample(x, cond, u, weight, eps, draws_at=None)

    def of_draws(self, x: Tensor, cond: Cond, u: Tensor, eps: Tensor) -> Tensor:
        """∇φ ℓ(φ; x_i, c_i, u_i, ε_i) of single draws, each at a sample of its own, [n, d].

        Args:
            x, eps: [n, …].
            cond: of n rows, or None.
            u: [n].
        """
        u, eps = u[:, None], eps[:, None]
        with warnings.catch_warnings():
            # of looking levels up in a table, which costs nothing beside the network
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return self._by_sample(x, cond, u, torch.ones_like(u), eps, draws_at=0)

    def _by_sample(
        self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor, draws_at: int | None
    ) -> Tensor:
        """Gradients [n, d]; `draws_at`: the samples' dimension in u, weight and eps, None of shared ones."""
        cond_at = None if cond is None else 0
        gradient: Any = vmap(grad(self._value), in_dims=(None, 0, cond_at, draws_at, draws_at, draws_at))
        with self._context():
            parts = gradient(self._parameters, x, cond, u, weight, eps)
        return torch.cat([parts[name].flatten(1) for name in self._parameters], 1)

    @torch.no_grad()
    def losses(self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        """1/K Σ_k ω_k ℓ of each sample, [n]; arguments as above."""
        one = [(x[i], None if cond is None else cond[i]) for i in range(len(x))]
        with self._context():
            return torch.stack([self._loss(x_i, cond_i, u, weight, eps) for x_i, cond_i in one])

    def _value(self, parameters: dict[str, Tensor], *arguments: Any) -> Tensor:
        value = functional_call(self._loss, parameters, arguments)
        assert isinstance(value, Tensor)
        return value

    def _context(self) -> AbstractContextManager[None]:
        return _context(self.device.type, self._bf16)


def sample_features(
    gradients: SampleGradients,
    projector: Projector,
    x: Tensor,
    cond: Cond,
    draws: Draws,
    chunk: int,
    normalise_draws: bool = False,
    model_id: int = 0,
    first: int = 0,
) -> Tensor:
    """Projected gradients of each sample over each of G groups of draws, [n, G, m], float32.

    Memory: `chunk` gradients and the network's activations for chunk · K/G rows, whatever n and G.

    Args:
        x, cond: see :class:`SampleGradients`.
        draws: R is G: one row for each group; u [G, K/G], eps [G, K/G, …].
        chunk: samples at a time.
        normalise_draws: average g/‖g‖ of each draw instead of g.
        model_id: names the projection, for several checkpoints.
        first: number of the first sample, for what is said of one.
    """
    rows = []
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        some = x[part], None if cond is None else cond[part]
        groups = []
        for u, weight, eps in zip(draws.u, draws.weight, draws.eps, strict=True):
            if normalise_draws:
                mean = _mean_of_directions(gradients, *some, u, weight, eps, first + start)
            else:
                mean = gradients(*some, u, weight, eps)
            groups.append(projector.project(mean, model_id).float())
        rows.append(torch.stack(groups, 1))
    return torch.cat(rows)


def _mean_of_directions(
    gradients: SampleGradients,
    x: Tensor,
    cond: Cond,
    u: Tensor,
    weight: Tensor,
    eps: Tensor,
    first: int,
) -> Tensor:
    """1/K Σ_k ω_k g_k/‖g_k‖, [n, d].

    Raises:
        UserError: a draw's gradient is zero.
    """
    mean = torch.zeros(len(x), gradients.dimension, device=x.device, dtype=gradients.dtype)
    for k in range(len(u)):
        g = gradients(x, cond, u[k : k + 1], torch.ones_like(weight[:1]), eps[k : k + 1])
        norm = g.norm(dim=1, keepdim=True)
        if not norm.all():
            raise UserError(
                f"sample {first + int((norm == 0).nonzero()[0, 0])}: a draw's gradient is zero and cannot be "
                "normalised (allowed: --normalise mean)"
            )
        mean += g / norm * (weight[k] / len(u))
    return mean


def attribution_pipeline(
    gradients: SampleGradients, projector: Projector, x: Tensor, cond: Cond, chunk: int
) -> Pipeline:
    """Attribution as what :mod:`carv_distill.variance` measures: the upstream draw is a training sample; the
    residual of a draw is its parameter gradient, projected to [n, m]; there are no parameters behind it.

    Args:
        projector: keeps squared norms in expectation; all variances are of what it makes.
        x, cond: of the training set.
        chunk: draws whose gradients are held at a time.

    Its residual raises:
        UserError: a gradient is not finite, with the number of the training sample.
    """
    device, dtype = gradients.device, gradients.dtype

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        pick = torch.randint(len(x), (count,), generator=generator, device=generator.device).to(x.device)
        some = None if cond is None else cond[pick].to(device)

        def residual(x_flat: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            rows = []
            for start in range(0, len(u), chunk):
                part = slice(start, start + chunk)
                label = None if some is None else some[index[part]]
                gradient = gradients.of_draws(x_flat[part], label, u[part], eps[part])
                if not (finite := gradient.isfinite().all(1)).all():
                    number = int(pick[int(index[part][~finite][0])])
                    raise UserError(f"training sample {number}: its gradient holds NaN or infinity")
                rows.append(projector.project(gradient, 0))
            return torch.cat(rows)

        return x[pick].to(device, dtype), residual

    return pipeline


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match a pattern (``*`` for any characters), in their own order.

    Raises:
        UserError: there are no names or no patterns, or a pattern matches none.
    """
    if not names:
        raise UserError("--parameters: the network has no parameters, so there is no gradient by them")
    if not patterns:
        raise UserError(f"--parameters: no pattern was given (allowed: names as {names[0]}, or *)")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"--parameters: {pattern!r} matches none of the {len(names)} parameters"
                f"{nearest(pattern, list(names))}; they are named as {names[0]}, {names[-1]}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


class _MeanLoss(nn.Module):
    """1/K Σ_k ω_k ℓ(φ; x, c, u_k, ε_k) of one sample."""

    def __init__(self, denoiser: NetworkDenoiser, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, x: Tensor, cond: Cond, u: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        draws = len(u)
        many = None if cond is None else repeated(cond, draws)
        losses = denoising_losses(self.denoiser, x.expand(draws, *x.shape), self.schedule.sigma(u), eps, many)
        return (weight * losses).mean()


@contextmanager
def _context(device: str, bf16: bool) -> Iterator[None]:
    """Attention by plain products, and autocast where it is asked for."""
    # a cached cast would outlive the transform that it was made in
    autocast = torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False)
    with PlainAttention(), autocast:
        yield
