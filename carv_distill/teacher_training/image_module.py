"""Training a teacher: EDM loss, dropped labels for guidance, EMA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.data import DataLoader

from carv_distill.carv import stream
from carv_distill.data.batches import Batch, step_loader
from carv_distill.data.labels import numbered
from carv_distill.data.sets import ImageSet
from carv_distill.engine.estimator import RunModule
from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped, warm_then_cosine
from carv_distill.errors import UserError
from carv_distill.model_card import AS_TEACHER, THIS_FOLDER, card_head
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_loss
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import EDMSchedule, LogNormalSchedule, check_levels
from carv_distill.teachers.teacher import Teacher, edm_scheduler_config, save_teacher
from carv_distill.teachers.trial import building, try_denoiser

from .options import PretrainOptions

KEY = "teacher"
"""Names the random streams of the training."""
_CARD = """\
{head}

# Diffusion teacher

A denoiser of images of {shape} with {labels} labels, the last of which is "no label"{classes}; EDM's loss and
parametrisation, {step} steps, written by carv-distill.

```python
import torch
from diffusers import EDMEulerScheduler, UNet2DModel

{folder}
unet, scheduler = UNet2DModel.from_pretrained(folder), EDMEulerScheduler.from_pretrained(folder)
scheduler.set_timesteps(50)
labels = torch.arange(4) % {labels}
images = scheduler.init_noise_sigma * torch.randn(4, {shape_of})
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(images, t)
        images = scheduler.step(unet(x, t, labels).sample, t, images).prev_sample  # in [-1, 1]
```

{as_teacher}
"""


def build_teacher(options: PretrainOptions, channels: int, size: int, classes: int) -> Teacher:
    """An untrained EDM teacher; its last class embedding is the null label.

    Raises:
        UserError: numbers that do not divide or are in the wrong order.
    """
    levels = len(options.channels)
    if not levels or any(c < 1 or c % 8 for c in options.channels):
        raise UserError(f"training.channels: {options.channels} must be one or more multiples of 8")
    if options.channels[-1] % options.head_channels:
        raise UserError(
            f"training.head_channels: {options.head_channels} does not divide the last of training.channels, "
            f"{options.channels[-1]}"
        )
    low, high = options.sigma_min, options.sigma_max
    if low >= high:
        raise UserError(f"training.sigma_min: {low:g} is not below training.sigma_max, {high:g}")
    schedule = EDMSchedule(low, high, options.rho)
    check_levels(schedule, "training.sigma_min, training.sigma_max, training.rho")
    sizes = f"training.channels: {options.channels}, training.layers: {options.layers}"
    with building(sizes):
        unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(options.channels),
            layers_per_block=options.layers,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            norm_num_groups=8,
            attention_head_dim=options.head_channels,
            num_class_embeds=classes + 1,
        )
    denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning(options.sigma_data))
    try_denoiser(denoiser, schedule, (channels, size, size), torch.tensor([classes]), sizes)
    trained = LogNormalSchedule(options.p_mean, options.p_std, low, high)
    return Teacher(denoiser, schedule, edm_scheduler_config(schedule, options.sigma_data), trained)


class PretrainModule(RunModule):
    """Denoising training of a teacher on images.

    The batch, its noise levels and its noises are a function of (seed, rank, step).

    Args:
        teacher: untrained; its last label is the null label.
        max_steps: length of the cosine decay.
        sampler_steps: Heun steps of :meth:`sample`.
        workers: processes that decode files ahead.
    """

    def __init__(
        self,
        teacher: Teacher,
        data: ImageSet,
        options: PretrainOptions,
        max_steps: int,
        seed: int,
        sampler_steps: int = 18,
        workers: int = 0,
    ) -> None:
        super().__init__(seed)
        self.options, self.max_steps = options, max_steps
        self.schedule, self.sampler_steps = teacher.schedule, sampler_steps
        self.scheduler_config, self.levels = teacher.scheduler_config, teacher.levels
        self.denoiser = teacher.denoiser
        self.ema = frozen_copy(teacher.denoiser)
        self._averaged = list(self.ema.parameters()), list(self.denoiser.parameters())
        self.data, self.workers = data, workers
        self.null_label = teacher.labels - 1

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches of this rank from the present step on."""
        place = [self.global_rank], self.global_step
        return step_loader(self.data, self.options.batch, self.seed, KEY, *place, self.workers)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        o = self.options
        g = stream(self.seed, self.global_rank, self.global_step, KEY, device=self.device)
        # the loader's draw of the batch, from a stream of the same name: what follows must not repeat it
        torch.randint(len(self.data), (o.batch,), generator=g, device=self.device)
        x, labels = batch
        drop = torch.rand(o.batch, generator=g, device=self.device) < o.label_dropout
        labels = torch.where(drop, self.null_label, labels)
        sigma = (o.p_mean + o.p_std * torch.randn(o.batch, generator=g, device=self.device)).exp()
        eps = torch.randn(x.shape, generator=g, device=self.device)
        loss = denoising_loss(self.denoiser, x, sigma, eps, labels)
        self.latest_losses = {"teacher": loss.detach()}
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        ema_update(*self._averaged, ramped(self.options.ema, self.global_step))

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """Heun samples of the averaged network."""
        dtype = next(self.ema.parameters()).dtype
        return heun_sample(self.ema, self.schedule, z.to(dtype), labels, self.sampler_steps)

    def save(self, folder: Path, step: int) -> None:
        """The averaged teacher after a step as a diffusers folder."""
        network, names = self.ema.network, self.data.spec.names
        save_teacher(folder, network, self.scheduler_config, self._card(step), self.levels, names)

    def _card(self, step: int) -> str:
        network: Any = self.ema.network
        config = network.model.config
        sides = config.in_channels, config.sample_size, config.sample_size
        return _CARD.format(
            head=card_head("unconditional-image-generation"),
            shape=" × ".join(map(str, sides)),
            shape_of=", ".join(map(str, sides)),
            labels=config.num_class_embeds,
            classes=f" (classes: {numbered(names)})" if (names := self.data.spec.names) else "",
            step=step,
            folder=THIS_FOLDER,
            as_teacher=AS_TEACHER,
        )

    def configure_optimizers(self) -> Any:
        o = self.options
        optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), o.learning_rate, weight_decay=o.weight_decay, fused=True
        )
        scheduler = warm_then_cosine(optimizer, o.warmup, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
