"""Attribution as the pipeline that the measures of :mod:`carv_distill.carv` take."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv.estimator import Residual
from carv_distill.variance import Pipeline

from .gradients import SampleGradients
from .projection import Projector


def attribution_pipeline(
    gradients: SampleGradients, projector: Projector, x: Tensor, cond: Tensor | None, chunk: int
) -> Pipeline:
    """The upstream draw is a training sample; the residual of a draw is its parameter gradient, projected to
    [n, m], and the measures are called with no parameters.

    Args:
        projector: keeps squared norms in expectation; all variances are of what it makes.
        x, cond: of the training set.
        chunk: draws whose gradients are held at a time.
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
                rows.append(projector.project(gradient, 0))
            return torch.cat(rows)

        return x[pick].to(device, dtype), residual

    return pipeline
