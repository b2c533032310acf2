"""The networks of distribution matching distillation, and what each of them descends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, Residual, Upstream
from carv_distill.data.latents import draw_latents
from carv_distill.engine.sharding import shard
from carv_distill.processes import Share
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import (
    Denoiser,
    NetworkDenoiser,
    denoised_difference,
    denoising_loss,
    reconstruction_loss,
)
from carv_distill.teachers.network import RawNetwork
from carv_distill.teachers.pipelines.codecs import Codec, Pixels
from carv_distill.teachers.precision import without_autocast

from .conditions import Conditions
from .discriminator import Discriminator, discriminator_loss, generator_direction
from .networks import Networks
from .options import DMDOptions

Samples = tuple[Tensor, Tensor]
"""Images, or what a teacher of latents denoises, and the numbers of their conditions, of one share."""
Generated = tuple[Tensor, Cond]
"""A student's samples and their conditions, looked up once, of one share."""
ALONE = Share(0, 1)
"""The whole batch as one share."""
_FAKE_LOSSES = {"weighted": denoising_loss, "x0": reconstruction_loss}


def dmd_residual(
    fake: Denoiser, teacher: Denoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond
) -> Tensor:
    """r = (D_fake(x_t) − D_teacher(x_t)) / (mean|x − D_teacher(x_t)| + 10⁻⁶), x_t = x + σ ε.

    Each draw is normalised by its own divisor before any average over draws is taken: a divisor pooled over
    draws would be another objective. Shapes: x, eps [n, …]; sigma, cond [n] → [n, …].

    Source: Yin et al. 2024 (DMD), equations 7 and 8; Yin et al. 2024 (DMD2), section 3.
    """
    difference, denoised = denoised_difference(fake, teacher, x, sigma, eps, cond)
    divisor = (x - denoised).abs().flatten(1).mean(1) + 1e-6
    return difference / divisor.view(-1, *[1] * (x.ndim - 1))


class DMDObjective(nn.Module):
    """Student, fake score and frozen teacher, with the losses of one share of an update's batch.

    The student descends

        g = 1/R Σ_r ∂x_r/∂θᵀ [1/K Σ_k ω_rk r(x_r, u_rk, ε_rk) + λ C·H·W ∂softplus(−h(x_t))/∂x_r],

    with x_r the student's one step from noise z_r (:mod:`~carv_distill.teachers.origin`), the second term
    where there is a discriminator h. A mean over a picture's entries, as other codes have it, is C·H·W times
    smaller. All that is random is drawn from the streams that are handed in.

    Args:
        networks: student, fake score, average and the frozen teacher.
        conditions: of the samples.
        seed: of the discriminator's weights.
        codec: between pictures and x; pixels by default.
        moments: whether real images come as mean and deviation of their x, [n, 2c, h, w].
    """

    def __init__(
        self,
        networks: Networks,
        options: DMDOptions,
        conditions: Conditions,
        seed: int,
        codec: Codec | None = None,
        moments: bool = False,
    ) -> None:
        super().__init__()
        self.options, self.conditions, self.codec = options, conditions, codec or Pixels()
        self.moments = moments
        self.fake_sampler = NoiseLevelSampler(Proposal.uniform(), options.fake_strategy)
        self.schedule, self.shape, self.origin = networks.schedule, networks.shape, networks.origin
        self.teacher, self.student = networks.teacher, networks.student
        self.fake, self.student_ema, self.shared = networks.fake, networks.average, networks.shared
        gan = options.gan
        first = conditions(torch.zeros(1, dtype=torch.long))
        self.discriminator: Discriminator | None = None
        if gan.on:
            read = cast(RawNetwork, networks.student.network)
            self.discriminator = Discriminator(read, first, gan.scales, seed)
        self.latest_denoising = torch.zeros(())
        """The fake score's own loss in its last update, of the last share."""
        self.latest_discriminator: Tensor | None = None
        """Its loss in the last update, of the last share; 2 ln 2 where it cannot tell."""
        self._list_parameters()

    def _list_parameters(self) -> None:
        """Walking a module's tree costs as much as an optimiser step of a small network: walked once, and
        again once it is sharded."""
        self.student_parameters = list(self.student.parameters())
        self.ema_parameters = list(self.student_ema.parameters())
        self.fake_parameters = list(self.fake.parameters())
        self.head_parameters: list[nn.Parameter] = []
        """Of a discriminator with an optimiser of its own; else they are the fake score's."""
        if self.discriminator is not None:
            own = self.options.gan.optimiser == "own"
            parameters = self.head_parameters if own else self.fake_parameters
            parameters += self.discriminator.parameters()

    def shard(self, mesh: DeviceMesh) -> None:
        """Cuts all networks over the processes of a mesh, the discriminator's heads too; of adapters, which
        are small, what they lie over."""
        if self.shared is not None:
            shard(self.shared.network, mesh, self.shared.all_parameters())
            return
        for denoiser in (self.student, self.student_ema, self.fake, self.teacher):
            shard(denoiser.network, mesh)
        if self.discriminator is not None:
            shard(self.discriminator, mesh)
        self._list_parameters()

    @property
    def read(self) -> NetworkDenoiser:
        """Whose encoder the discriminator reads."""
        return self.fake if self.options.gan.features == "fake" else self.teacher

    def upstream_noise(self, count: int, g: torch.Generator) -> Samples:
        """Noise z [n, …] and numbers of conditions [n]."""
        dtype = self.student_parameters[0].dtype
        z = torch.randn(count, *self.shape, generator=g, device=g.device, dtype=dtype)
        return z, self.conditions.draw(count, g)

    def generate(self, student: NetworkDenoiser, z: Tensor, numbers: Tensor) -> Tensor:
        """The one-step generator's x of noise z under these conditions."""
        return self.origin(student, z, self.conditions(numbers))

    @torch.no_grad()
    def pictures(self, student: NetworkDenoiser, z: Tensor, numbers: Tensor) -> Tensor:
        """One-step pictures in [−1, 1] up to the student's error, as many at a time as the codec takes."""
        parts = zip(z.split(self.codec.rows(z)), numbers.split(self.codec.rows(z)), strict=True)
        return torch.cat([self.codec.decode(self.generate(student, *part)) for part in parts])

    @torch.no_grad()
    def student_samples(self, own: torch.Generator) -> Generated:
        """Samples for the fake score to learn from."""
        z, numbers = self.upstream_noise(self.options.fake_batch, own)
        cond = self.conditions(numbers)
        return self.origin(self.student, z, cond), cond

    def pipeline(
        self, share: Share = ALONE, shared: torch.Generator | None = None
    ) -> Callable[[int, torch.Generator], Upstream]:
        """R student samples with their residual and what the discriminator adds, of one share of the batch:
        training, its trace and every measurement take their gradients from here."""

        def upstream(count: int, g: torch.Generator) -> Upstream:
            z, numbers = self.upstream_noise(count, g)
            cond = self.conditions(numbers)
            x = self.origin(self.student, z, cond)
            weight = self.options.gan.student_weight
            if self.discriminator is None or not weight:
                return Upstream(x, self.residual(cond))
            head = self.discriminator

            def push(g: torch.Generator) -> Tensor:
                sigma, eps = self._fake_draw(share, x, g, shared)
                return weight * x[0].numel() * generator_direction(self.read, head, x, sigma, eps, cond)

            return Upstream(x, self.residual(cond), push)

        return upstream

    def residual(self, cond: Cond) -> Residual:
        """The DMD residual of student samples under these conditions, outside of the training's autocast."""
        o = self.options

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            sigma = self.schedule.sigma(o.t_min + (o.t_max - o.t_min) * u)
            with _residual_context(x, o.residual_precision):
                rows = None if cond is None else cond[index]
                return dmd_residual(self.fake, self.teacher, x, sigma, eps, rows)

        return residual

    def fake_loss(
        self,
        share: Share,
        samples: Generated,
        own: torch.Generator,
        shared: torch.Generator,
        real: Samples | None = None,
    ) -> Tensor:
        """Denoising loss of the fake score on student samples, one noise level each, uniform in u; with real
        images, the discriminator's loss on top."""
        x, cond = samples
        sigma, eps = self._fake_draw(share, x, own, shared)
        loss = _FAKE_LOSSES[self.options.fake_loss](self.fake, x, sigma, eps, cond)
        self.latest_denoising = loss.detach()
        if self.discriminator is None or real is None:
            return loss
        real = self._encode_real(real[0], own), real[1]
        levels = [self._fake_draw(share, images, own, shared) for images, _ in (samples, real)]
        return loss + self._separation(self.discriminator, samples, real, levels, own)

    def _encode_real(self, images: Tensor, g: torch.Generator) -> Tensor:
        """x of real images, or a draw of it, the same, of its moments."""
        if not self.moments:
            return self.codec.encode(images, g)
        shape = len(images), images.shape[1] // 2, *images.shape[2:]
        return draw_latents(images, torch.randn(shape, generator=g, device=images.device, dtype=images.dtype))

    def _separation(
        self,
        head: Discriminator,
        samples: Generated,
        real: Samples,
        levels: Sequence[tuple[Tensor, Tensor]],
        own: torch.Generator,
    ) -> Tensor:
        """The discriminator's weighted loss and its approximate R1 penalty."""
        gan = self.options.gan
        (x, cond), (images, captions) = samples, real
        of_captions = self.conditions(captions)
        of_real = head.logits(self.read, images, *levels[1], of_captions)
        of_samples = head.logits(self.read, x, *levels[0], cond)
        separation = discriminator_loss(of_samples, of_real)
        self.latest_discriminator = separation.detach()
        loss = gan.fake_weight * separation
        if gan.r1_weight:
            sigma, eps = levels[1]
            near = torch.randn(eps.shape, generator=own, device=eps.device, dtype=eps.dtype)
            moved = head.logits(self.read, images + gan.r1_noise * near, sigma, eps, of_captions)
            loss = loss + gan.r1_weight * (moved - of_real).square().mean()
        return loss

    def _fake_draw(
        self, share: Share, x: Tensor, own: torch.Generator, shared: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(σ [n], ε [n, …]) for pictures that are noised once each."""
        drawn = draw(self.fake_sampler, 1, share, x, own, shared)
        return self.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0]


def _residual_context(x: Tensor, precision: str) -> contextlib.AbstractContextManager[None]:
    if precision == "bfloat16":
        # without the cache, which would keep the whole network in bfloat16 until the outer autocast ends
        return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)
    return without_autocast(x)


def draw(
    sampler: NoiseLevelSampler,
    count: int,
    share: Share,
    x: Tensor,
    own: torch.Generator,
    shared: torch.Generator | None,
) -> Draws:
    """A share's `count` draws of each x, dealt out over all shares."""
    return sampler.draw(
        len(x), count, x.shape[1:], own, share.index, share.count, shared=shared, dtype=x.dtype
    )


def real_parts(batch: Sequence[Tensor], shares: int, sets: int, size: int) -> list[list[Samples]]:
    """A loader's images and labels by fake-score update and share."""
    images, labels = (t.view(shares, sets, size, *t.shape[1:]) for t in batch)
    return [[(images[s, i], labels[s, i]) for s in range(shares)] for i in range(sets)]
