"""One seed per image, so that a number depends on the seeds and never on batch size or world size."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from carv_distill.data.spec import ImageSpec, to_uint8
from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .features import FeatureExtractor

Sample = Callable[[Tensor, Tensor], Tensor]
"""`sample(z, labels) -> images`: z float32 [n, C, H, W], labels int64 [n], images [n, C, H, W] in [-1, 1]."""


def image_latents(
    seeds: Sequence[int], shape: Sequence[int], classes: int, labels: str = "turn"
) -> tuple[Tensor, Tensor]:
    """Latent and label of each seed, from that seed alone: z from its own generator, label seed mod classes.

    Consecutive seeds so have every label equally often. Labels drawn at random add the noise of their counts
    to every metric: on digits, 1,797 images a range, that noise was the larger part of FID's spread.
    Published numbers are of random ones.

    Args:
        seeds: n seeds, one per image.
        shape: of one latent, e.g. (C, H, W).
        classes: labels are 0..classes-1 in turn; 0 gives labels of 0 for unconditional generators.
        labels: turn, or random for labels from the seed's generator, after its latent.

    Returns:
        z float32 [n, *shape] standard normal, labels int64 [n].

    Source:
        one generator per seed, on the CPU: EDM's `StackedRandomGenerator` (Karras et al., 2022), which draws
        the labels at random.
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
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    labels: str = "turn",
) -> Tensor:
    """The images of `seeds`, as bytes.

    Args:
        sample: the generator; called with z and labels on `device`, at most `batch_size` at a time.
        seeds: N seeds. Several processes may take a share each and concatenate what they made.
        spec: shape of latents and images, and the number of classes.
        progress: called after each batch with the number of images in it.
        labels: turn or random; see :func:`image_latents`.

    Returns:
        uint8 [N, C, H, W] on the CPU, in the order of `seeds`.

    Raises:
        UserError: the generator returned another shape, or NaN or infinity, which bytes would hide.
    """
    images = torch.empty(len(seeds), *spec.shape, dtype=torch.uint8)
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        latents, numbers = image_latents(batch, spec.shape, spec.classes, labels)
        made = sample(latents.to(device), numbers.to(device))
        if made.shape != latents.shape:
            raise UserError(
                f"generator: found images {list(made.shape)}; {spec.name} has {list(latents.shape)}"
            )
        if not made.isfinite().all():
            raise UserError(f"generator: NaN or infinity in the images of seeds {batch[0]} to {batch[-1]}")
        images[start : start + len(batch)] = to_uint8(made).cpu()
        if progress is not None:
            progress(len(batch))
    return images


def generated_features(
    sample: Sample,
    seeds: range,
    spec: ImageSpec,
    extractor: FeatureExtractor,
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Callable[[int], None] | None = None,
    labels: str = "turn",
) -> Tensor:
    """The features of the images of `seeds`, made by all processes together.

    Args:
        sample: the generator; see :func:`generate_uint8`.
        seeds: N seeds; the same on every process.
        processes: each makes and embeds its batches; this one alone by default, on the CPU.
        progress: called after each batch with the number of images that all have made meanwhile, about.

    Returns:
        float32 [N, D] on the CPU, in the order of `seeds`; on other ranks than the first no rows. They do not
        depend on the number of processes, and on the batch size only by rounding.

    Raises:
        UserError: see :func:`generate_uint8`.
    """
    p = processes or Processes()
    features = [torch.empty(0, extractor.dim)]
    for batch in p.batches(len(seeds), batch_size):
        chosen = seeds[batch.start : batch.stop]
        made = generate_uint8(sample, chosen, spec, batch_size, p.device, labels=labels)
        features.append(extractor(made).float().cpu())
        if progress is not None:
            progress(len(batch) * p.world_size)
    return p.join(torch.cat(features), len(seeds), batch_size)
