"""threestudio's Stable Diffusion guidance with K re-noisings of each render, which share one encode.

Timesteps are the integers from min_step to max_step, equally likely, as threestudio draws them: N equal bins
of u in [0, 1), one for each, so the expectation is theirs exactly, whatever the proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import threestudio
import torch
import torch.nn.functional as F
from threestudio.models.guidance.stable_diffusion_guidance import StableDiffusionGuidance
from threestudio.utils.ops import perpendicular_component
from torch import Tensor

from carv_distill.carv import FiniteDraws, NoiseLevelSampler, Proposal, average_residual, stream

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "sds": lambda alpha: 1 - alpha,
    "uniform": torch.ones_like,
    "fantasia3d": lambda alpha: alpha.sqrt() * (1 - alpha),
}
"""w(t) from ᾱ_t, by threestudio's names."""
INSTEAD = {"use_sjc": "weighting_strategy=uniform, the same gradient", "use_img_loss": "use_img_loss=false"}
"""Settings of another gradient, and what to set instead."""


@threestudio.register("carv-stable-diffusion-guidance")
class CARVStableDiffusionGuidance(StableDiffusionGuidance):
    """grad = 1/K Σ_k ω_k w(t_k) (ε̂(x_tk) − ε_k) of each render, t from q ∝ w(t), ω = p/q.

    What threestudio returns, and under its names; clipped, if at all, after the average.
    """

    @dataclass
    class Config(StableDiffusionGuidance.Config):
        draws: int = 4
        """K, re-noisings of each render."""
        strategy: str = "stratified"
        """How their timesteps are spread: iid, or a name of `carv_distill.carv.STRATEGIES`."""
        proposal: str = "weighting"
        """q of the timesteps: weighting, as w(t), or uniform."""
        chunk: int = 0
        """Re-noisings per call of the UNet; 0: all of them."""

    cfg: Config

    def configure(self) -> None:
        """Refuses what cannot be before the pipeline is loaded.

        Raises:
            ValueError: an unknown value, or a setting whose gradient is not w(t) (ε̂ − ε).
        """
        for key, known in (("proposal", ("weighting", "uniform")), ("weighting_strategy", WEIGHTINGS)):
            if (value := getattr(self.cfg, key)) not in known:
                raise ValueError(f"system.guidance.{key} must be one of {', '.join(known)}, found {value!r}")
        for key, instead in INSTEAD.items():
            if getattr(self.cfg, key, False):
                raise ValueError(f"system.guidance.{key} is not w(t) (ε̂ − ε): set {instead}")
        NoiseLevelSampler(Proposal.uniform(), self.cfg.strategy).levels(1, self.cfg.draws)
        super().configure()
        self.weights = WEIGHTINGS[self.cfg.weighting_strategy](self.scheduler.alphas_cumprod.double().cpu())
        self.finite = FiniteDraws()  # a draw that half precision overflowed in is left out of its average

    def sampler(self) -> NoiseLevelSampler:
        """Of u on the timesteps that are in range now: `update_step` moves it."""
        in_range = self.weights[self.min_step : self.max_step + 1]
        weighted = self.cfg.proposal == "weighting"
        q = Proposal.from_weights(in_range) if weighted else Proposal.uniform(len(in_range))
        return NoiseLevelSampler(q, self.cfg.strategy)

    def prompts(self, prompt_utils: Any, *camera: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, 2 + n, L, D] of each render's prompt, of none and of n negatives, which Perp-Neg has
        2 of and plain guidance 0; and the negatives' weights [B, n]."""
        count, by_view = len(camera[0]), self.cfg.view_dependent_prompting
        if prompt_utils.use_perp_neg:
            text, weights = prompt_utils.get_text_embeddings_perp_neg(*camera, by_view)
        else:
            text = prompt_utils.get_text_embeddings(*camera, by_view)
            weights = text.new_zeros(count, 0)
        negatives = text[2 * count :].view(count, weights.shape[1], *text.shape[1:])
        return torch.cat([text[:count, None], text[count : 2 * count, None], negatives], 1), weights

    def predict_noise(self, x_t: Tensor, t: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        """ε̂ under guidance: ε_c + s (ε_c − ε_∅), or Perp-Neg's ε_∅ + s (ε_c − ε_∅ + Σ_i w_i perp_i)."""
        many = text.shape[1]
        rows, ts = x_t.repeat_interleave(many, 0), t.repeat_interleave(many)
        e = self.forward_unet(rows, ts, encoder_hidden_states=text.flatten(0, 1)).unflatten(0, (-1, many))
        none, push = e[:, 1], e[:, 0] - e[:, 1]
        if many == 2:
            return e[:, 0] + self.cfg.guidance_scale * push
        for i, weight in enumerate(weights.unbind(1)):
            away = perpendicular_component(e[:, 2 + i] - none, e[:, 0] - none)
            push = push + weight.view(-1, 1, 1, 1) * away
        return none + self.cfg.guidance_scale * push

    def __call__(
        self,
        rgb: Tensor,
        prompt_utils: Any,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Renders rgb [B, H, W, C] in [0, 1] → loss_sds, grad_norm, min_step, max_step, as threestudio's."""
        camera = elevation, azimuth, camera_distances
        size = (64, 64) if rgb_as_latents else (512, 512)
        images = F.interpolate(rgb.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
        latents = images if rgb_as_latents else self.encode_images(images)
        text, negative = self.prompts(prompt_utils, *camera)
        sampler, dtype = self.sampler(), torch.promote_types(latents.dtype, torch.float32)
        w = self.weights.to(latents.device, dtype)

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            t = self.min_step + (u * sampler.proposal.bins).long()
            predicted = self.predict_noise(
                self.scheduler.add_noise(x, eps, t), t, text[index], negative[index]
            )
            return w[t].view(-1, 1, 1, 1) * (predicted - eps)

        # a stream of its own that follows the run's seed, rank and position
        generator = stream("carv", int(torch.randint(2**62, ())), device=latents.device)
        draws = sampler.draw(len(latents), self.cfg.draws, latents.shape[1:], generator, dtype=dtype)
        grad = average_residual(residual, latents, draws, self.cfg.chunk or None, finite=self.finite)
        if self.grad_clip_val is not None:
            grad = grad.clamp(-self.grad_clip_val, self.grad_clip_val)
        loss = 0.5 * F.mse_loss(latents.to(grad), (latents - grad).detach(), reduction="sum") / len(latents)
        out = {
            "loss_sds": loss,
            "grad_norm": grad.norm(),
            "min_step": self.min_step,
            "max_step": self.max_step,
        }
        if guidance_eval:  # pictures for a log, of a draw of threestudio's own
            with torch.no_grad():
                theirs = super().__call__(rgb, prompt_utils, *camera, rgb_as_latents, True, **kwargs)
            out["eval"] = theirs["eval"]
        return out
