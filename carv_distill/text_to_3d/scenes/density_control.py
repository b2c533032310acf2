"""Adaptive density control: where Gaussians are too few or too many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from carv_distill.errors import UserError
from carv_distill.processes import average_over_ranks
from carv_distill.text_to_3d.options import DensifyOptions
from carv_distill.text_to_3d.rendering import Rendered, rotations

from .gaussians import GaussianScene
from .moments import carry_moments, zero_moments
from .scene import Scene

SHRINK = 1.6
"""By which the scales of a split Gaussian's children are smaller."""
CHILDREN = 2


class DensityControl:
    """Changes the number of Gaussians as a run goes on.

    Over the views v of the renders since the last change, the mean view-space gradient of a Gaussian is

        ḡ_i = Σ_v [i visible in v] ‖∂L_v/∂p_iv‖ / Σ_v [i visible in v],

    with p its place in the picture in normalised device coordinates (from −1 to 1) and L_v the loss of one
    view. After every `every`-th step

    - those less opaque than `prune_opacity` are removed;
    - of those with ḡ ≥ `gradient`, small ones are cloned and large ones split, until there are `most`;
    - those larger than `prune_size` are removed;

    and after every `reset_every`-th step all opacities are lowered to 2 · `prune_opacity`; all this from step
    `start` to step `stop`. New Gaussians start with moments of zero in the optimiser, the others keep theirs.
    The sums are averaged over the processes and the noise of a split comes from the stream that is handed in,
    so that all of them do the same.

    Source: Kerbl et al. 2023 (3D Gaussian splatting), section 5; DreamGaussian (arXiv 2309.16653) for
    text-to-3D.
    """

    def __init__(self, options: DensifyOptions) -> None:
        self.options = options
        self.sums = torch.zeros(2, 0)
        """Σ_v ‖∂L_v/∂p_iv‖ and the views in which i is visible, [2, N], since the last change; nothing
        yet: [2, 0]."""
        self._step: Tensor | None = None

    @classmethod
    def of(cls, scene: Scene, options: DensifyOptions) -> DensityControl | None:
        """That of a scene, where it has Gaussians and their number is to change."""
        return cls(options) if isinstance(scene, GaussianScene) and options.every else None

    def watch(self, seen: Rendered, renders: int) -> None:
        """Sees the gradients of renders whose backward is to come.

        Args:
            renders: of the whole step, over which its loss is the mean.
        """
        assert seen.splats is not None
        place, visible = seen.splats.place, seen.splats.visible
        to_device = seen.image.shape[-1] / 2 * renders

        def add(gradient: Tensor) -> None:
            norms = to_device * gradient.detach().norm(dim=-1)
            rows = torch.stack([(norms * visible).sum(0), visible.sum(0).to(norms)])
            self._step = rows if self._step is None else self._step + rows

        place.register_hook(add)

    def after_step(
        self,
        step: int,
        scene: Scene,
        optimizer: Optimizer,
        skipped: Tensor,
        generator: torch.Generator,
        world_size: int = 1,
    ) -> None:
        """Adds up what :meth:`watch` saw, and changes the Gaussians where it is time; only then does the host
        wait for the device.

        Args:
            step: number of steps that are done.
            skipped: 1 where this step was left out: what it saw does not count.
            generator: the same for all processes.

        Raises:
            UserError: no Gaussian would be left.
        """
        assert isinstance(scene, GaussianScene)
        o, seen, self._step = self.options, self._step, None
        if step > o.stop or seen is None:
            return
        average_over_ranks(seen, world_size)
        seen = torch.where(skipped > 0, 0, seen)
        self.sums = self.sums.to(seen) + seen if self.sums.shape[1] else seen
        if step < o.start:
            return
        if step % o.every == 0:
            gradient = self.sums[0] / self.sums[1].clamp(min=torch.finfo(self.sums.dtype).tiny)
            values, kept = densified(scene.values, gradient, o, scene.extent, generator)
            if not len(values["means"]):
                raise UserError(
                    f"scene.gaussians.densify: no Gaussian would be left after step {step}; the run stops, "
                    "and what it has kept is good (a lower prune_opacity or a greater prune_size leaves more)"
                )
            before = dict(scene.named_parameters())
            scene.replace(values)
            carry_moments(optimizer, before, dict(scene.named_parameters()), kept)
            self.sums = self.sums[:, :0]
        if o.reset_every and step % o.reset_every == 0:
            with torch.no_grad():
                scene.opacity_logits.clamp_(max=_logit(2 * o.prune_opacity))
            zero_moments(optimizer, scene.opacity_logits)

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"sums": self.sums.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        self.sums = state["sums"].clone()


@torch.no_grad()
def densified(
    values: Mapping[str, Tensor],
    gradient: Tensor,
    options: DensifyOptions,
    extent: float,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], Tensor]:
    """Gaussians after one change, and whose moments they keep.

    A clone is the same Gaussian once more. Of a split one two children remain, at places drawn from it, with
    its scales over 1.6, its rotation, colour and opacity.

    Args:
        values: by the names of a :class:`GaussianScene`'s parameters, [N, …].
        gradient: ḡ, [N].

    Returns:
        The new values [M, …], first of those that stay; and for each the row it had, −1 for new ones, [M].
    """
    o, scales = options, values["log_scales"].exp()
    stays = values["opacity_logits"].sigmoid() >= o.prune_opacity
    chosen = _greatest(torch.where(stays, gradient, 0), o.gradient, o.most - int(stays.sum()))
    large = scales.amax(-1) > o.split_size * extent
    clones, parents = (chosen & ~large).nonzero()[:, 0], (chosen & large).nonzero()[:, 0]
    stays[parents] = False
    kept = stays.nonzero()[:, 0]
    rows = torch.cat([kept, clones, *[parents] * CHILDREN])
    new = {name: value[rows] for name, value in values.items()}
    split = slice(len(kept) + len(clones), None)
    noise = torch.randn(
        CHILDREN * len(parents), 3, generator=generator, device=scales.device, dtype=scales.dtype
    )
    along = scales[rows[split]] * noise
    new["means"][split] += (rotations(new["quaternions"][split]) @ along[:, :, None]).squeeze(-1)
    new["log_scales"][split] -= math.log(SHRINK)
    origin = rows.clone()
    origin[len(kept) :] = -1
    if o.prune_size is not None:
        fits = new["log_scales"].exp().amax(-1) <= o.prune_size * extent
        new, origin = {name: value[fits] for name, value in new.items()}, origin[fits]
    return new, origin


def _greatest(gradient: Tensor, least: float, room: int) -> Tensor:
    """Which of [N] are at least `least`, the greatest ones where there is not room for all."""
    order = gradient.argsort(descending=True, stable=True)[: max(room, 0)]
    chosen = torch.zeros_like(gradient, dtype=torch.bool)
    chosen[order] = True
    return chosen & (gradient >= least)


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if share < 1 else math.inf
