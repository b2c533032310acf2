"""One seed per image, so that a number depends on the seeds and never on batch size or world size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from carv_distill.data.sets import ImageSpec, to_uint8
from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .features import FeatureExtractor

Sample = Callable[[Tensor, Tensor], Tensor]
"""`sample(z, labels) -> images`: z float32 [n, …], labels int64 [n], images [n, C, H, W] in [-1, 1]."""


def image_latents(
    seeds: Sequence[int], shape: Sequence[int], classes: int, labels: str = "random"
) -> tuple[Tensor, Tensor]:
    """Latent and label of each seed, from that seed alone: z from its own generator, then the label.

    Labels drawn at random are those of published numbers, and what KID takes images to be: independent. In
    turn, seed mod classes, consecutive seeds have every label equally often: without the noise of the counts,
    on digits the larger part of FID's spread, every metric is steadier, FID lower, and KID below zero.

    Args:
        seeds: n seeds, one per image.
        shape: of one latent, e.g. (C, H, W).
        classes: 0 gives labels of 0 for unconditional generators.
        labels: random, from the seed's generator after its latent, or in turn.

    Returns:
        z float32 [n, *shape] standard normal, labels int64 [n].

    Source: EDM's `StackedRandomGenerator` (Karras et al., 2022).
    """
    latents = torch.empty(len(seeds), *shape)
    numbers = torch.tensor([seed % classes if classes else 0 for seed in seeds])
    generator = torch.Generator()
    for i, seed in enumerate(seeds):
        generator.manual_seed(seed)
        torch.randn(tuple(shape), generator=generator, out=latents[i])
        if classes and labels == "random":
            numbers[i] = torch.randint(classes, (), generator=generator)
    return latents, numbers


@torch.no_grad()
def generate_uint8(
    sample: Sample,
    seeds: Sequence[int],
    spec: ImageSpec,
    device: torch.device | str = "cpu",
    labels: str = "random",
    latent: Sequence[int] | None = None,
) -> Tensor:
    """The images of n seeds as bytes, uint8 [n, C, H, W] on the device, in one batch; latents and labels by
    :func:`image_latents`.

    Args:
        latent: shape of one z, where that is not an image's.

    Raises:
        UserError: the generator returned another shape, or NaN or infinity, which bytes would hide.
    """
    latents, numbers = image_latents(seeds, latent or spec.shape, spec.classes, labels)
    x = sample(latents.to(device), numbers.to(device))
    if x.shape != (len(seeds), *spec.shape):
        wanted = [len(seeds), *spec.shape]
        raise UserError(f"generator: found images {list(x.shape)}; {spec.name} has {wanted}")
    if not x.isfinite().all():
        raise UserError(f"generator: NaN or infinity in the images of seeds {seeds[0]} to {seeds[-1]}")
    return to_uint8(x)


def generated_features(
    sample: Sample,
    seeds: range,
    spec: ImageSpec,
    extractor: FeatureExtractor,
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Callable[[int], None] | None = None,
    labels: str = "random",
    latent: Sequence[int] | None = None,
) -> Tensor:
    """The features of the images of N seeds, float32 [N, D] on the CPU, in the order of `seeds`.

    They do not depend on the number of processes, and on the batch size only by rounding. Args as for
    :func:`generate_uint8`, and

    Args:
        processes: each makes and embeds its batches, and rank 0 returns all features, the others no rows;
            this one alone by default, on the CPU.
        progress: called after each batch with the number of images that all have made meanwhile, about.
    """
    p = processes or Processes()
    features = [torch.empty(0, extractor.dim)]
    own, most = p.batches(len(seeds), batch_size), len(p.batches(len(seeds), batch_size, rank=0))
    for batch in own:
        images = generate_uint8(sample, seeds[batch.start : batch.stop], spec, p.device, labels, latent)
        features.append(extractor(images).float().cpu())
        if progress is not None:
            progress(len(batch) * p.world_size)
    for _ in range(most - len(own)):  # a sharded generator needs every process in every call
        generate_uint8(sample, seeds[:1], spec, p.device, labels, latent)
    return p.join(torch.cat(features), len(seeds), batch_size)
