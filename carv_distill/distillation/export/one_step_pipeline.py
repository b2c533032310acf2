"""A one-step generator for diffusers: x = D(σ_max z; σ_max, y) with z ~ N(0, I).

D is the denoiser of `unet` under the parametrisation of `scheduler`: EDM's preconditioning, ε-, v- or
sample-prediction on betas, or a flow's velocity; where σ_max = ∞ the network sees z itself. This file goes
with the weights, and needs diffusers alone.
"""

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class OneStepPipeline(DiffusionPipeline):
    """Images by one call of `unet`, F(x, c_noise, class labels)."""

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | list[int] | torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Generates images.

        Args:
            batch_size: n; a list of labels has a length of its own.
            class_labels: one for all, or one per image; a conditional network needs them.
            output_type: pil, np ([n, H, W, C] in [0, 1]), pt ([n, C, H, W] in [0, 1]) or raw (x itself, in
                [-1, 1] up to the network's error).

        Raises:
            ValueError: labels are missing or out of range; an unknown output type.
        """
        if output_type not in ("pil", "np", "pt", "raw"):
            raise ValueError(f"output_type {output_type!r} is not one of pil, np, pt, raw")
        labels = self._labels(batch_size, class_labels)
        count = batch_size if labels is None else len(labels)
        config = self.unet.config
        side = config.get("sample_size") or config["img_resolution"]
        shape = (count, config["in_channels"], side, side)
        z = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        x = self.denoise(z, labels)
        images = x if output_type == "raw" else VaeImageProcessor().postprocess(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def denoise(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """D(σ_max z; σ_max, labels): z [n, C, H, W], labels [n] or None → [n, C, H, W]."""
        scheduler, config = self.scheduler, self.scheduler.config
        if hasattr(scheduler, "precondition_inputs"):
            sigma = z.new_tensor([config.sigma_max])
            x = sigma * z
            raw = self._raw(
                scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma), labels
            )
            return scheduler.precondition_outputs(x, raw, sigma)
        if config.get("use_flow_sigmas") or type(scheduler).__name__.startswith("FlowMatch"):
            return z - self._raw(z, z.new_tensor([config.num_train_timesteps]), labels)
        signal = torch.cumprod(1 - scheduler.betas.double(), 0)[-1]
        alpha, noise = float(signal.sqrt()), float((1 - signal).sqrt())
        last = z.new_tensor([len(scheduler.betas) - 1])
        raw = self._raw(noise * z, last, labels)
        match config.prediction_type:
            case "epsilon":
                return (z - raw) * (noise / alpha)
            case "v_prediction":
                return alpha * noise * z - noise * raw
            case "sample":
                return raw
        raise ValueError(
            f"prediction_type {config.prediction_type!r} is not one of epsilon, v_prediction, sample"
        )

    def _raw(self, scaled: torch.Tensor, level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """F in float32, whatever the network computes in."""
        levels = level.expand(len(scaled))
        out = self.unet(scaled.to(self.unet.dtype), levels, class_labels=labels, return_dict=False)
        return out[0].float()

    def _labels(self, count: int, given: int | list[int] | torch.Tensor | None) -> torch.Tensor | None:
        config = self.unet.config
        classes = config.get("num_class_embeds") or config.get("label_dim") or 0
        if not classes:
            return None
        if given is None:
            raise ValueError(f"class_labels are missing: this generator has labels 0 to {classes - 1}")
        labels = torch.as_tensor(given, dtype=torch.long, device=self._execution_device)
        labels = labels.expand(count) if labels.ndim == 0 else labels
        if labels.ndim != 1 or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"class_labels must be one integer per image, 0 to {classes - 1}")
        return labels
