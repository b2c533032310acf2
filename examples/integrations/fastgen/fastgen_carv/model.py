"""FastGen's DMD2 whose student learns from K re-noisings of each generated sample.

FastGen has many distributions of t and no inverse CDF of them. None is needed: of n fresh draws of its own,
sorted, the ⌊u n⌋-th is one draw of that distribution for u uniform on [0, 1), so its mean over strata of u
is unbiased, and low u are low t.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from fastgen.methods import DMD2Model
from fastgen.utils.basic_utils import convert_cfg_to_dict
from torch import Tensor
from torch.utils._pytree import tree_map

from carv_distill.carv import Chunk, NoiseLevelSampler, Proposal, average_residual, stream

QUANTILES = 1 << 16
"""n, draws of t behind a step's strata: what they add to its variance is 1/n of a single draw's."""


class CARVDMD2Model(DMD2Model):
    """vsd_loss from 1/K Σ_k (x̂_fake − x̂_teacher)/(mean|x − x̂_teacher| + 10⁻⁶) at (t_k, ε_k) of one x.

    Each draw has its own divisor, as in FastGen's loss, before the average. The discriminator's term keeps
    the one (t, ε) of each sample that FastGen drew; the fake score and the discriminator learn as ever.
    """

    def build_model(self) -> None:
        """Refuses what cannot be sampled before a network is loaded."""
        self.sampler = NoiseLevelSampler(Proposal.uniform(QUANTILES), self.config.strategy)
        self.sampler.levels(1, self.config.draws)
        self.chunk = Chunk(self.config.chunk)
        self.chunk.halves = False  # sharded networks are called equally often by all processes
        super().build_model()

    def _student_update_step(
        self,
        input_student: Tensor,
        t_student: Tensor,
        t: Tensor,
        eps: Tensor,
        data: dict[str, Any],
        condition: Any = None,
        neg_condition: Any = None,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """FastGen's (losses, outputs) of one student update."""
        x = self.gen_data_from_net(input_student, t_student, condition=condition)
        direction = self.direction(x, condition, neg_condition)
        vsd_loss = 0.5 * F.mse_loss(x.float(), (x.float() - direction).detach())
        gan_loss = torch.zeros_like(vsd_loss)
        if self.config.gan_loss_weight_gen > 0:
            x_t = self.net.noise_scheduler.forward_process(x, eps, t)
            _, gan_loss = self._compute_teacher_prediction_gan_loss(x_t, t, condition=condition)
        losses = {
            "total_loss": vsd_loss + self.config.gan_loss_weight_gen * gan_loss,
            "vsd_loss": vsd_loss,
            "gan_loss_gen": gan_loss,
        }
        return losses, self._get_outputs(x, input_student, condition=condition)

    def direction(self, x: Tensor, condition: Any, neg_condition: Any) -> Tensor:
        """What x [R, …] is moved along, [R, …], float32."""
        schedule = self.net.noise_scheduler
        ts = schedule.sample_t(QUANTILES, **convert_cfg_to_dict(self.config.sample_t_cfg), device=self.device)
        ts = ts.sort().values

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            t = ts[(u * QUANTILES).long()]
            x_t = schedule.forward_process(x, eps.to(x.dtype), t)
            own, negative = rows(condition, index), rows(neg_condition, index)
            fake = self.fake_score(x_t, t, condition=own, fwd_pred_type="x0")
            teacher = self.teacher(x_t, t, condition=own, fwd_pred_type="x0")
            if self.config.guidance_scale is not None:
                teacher = self._apply_classifier_free_guidance(x_t, t, teacher, neg_condition=negative)
            size = (x.float() - teacher.float()).abs().flatten(1).mean(1) + 1e-6
            return (fake - teacher) / size.view(-1, *[1] * (x.ndim - 1))

        # a stream of its own that follows the run's seed, rank and iteration
        generator = stream("carv", int(torch.randint(2**62, ())), device=x.device)
        draws = self.sampler.draw(len(x), self.config.draws, x.shape[1:], generator)
        return average_residual(residual, x, draws, self.chunk)


def rows(condition: Any, index: Tensor) -> Any:
    """The conditions of some samples: of every tensor in it, its rows."""
    return tree_map(lambda c: c[index] if isinstance(c, Tensor) else c, condition)
