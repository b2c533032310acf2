"""One seed per image, so that a number depends on the seeds and never on batch size or world size."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from carv_distill.data import ImageSpec, to_uint8
from carv_distill.errors import UserError

Sample = Callable[[Tensor, Tensor], Tensor]
"""`sample(z, labels) -> images`: z float32 [n, C, H, W], labels int64 [n], images [n, C, H, W] in [-1, 1]."""


def image_latents(seeds: Sequence[int], shape: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    """Latent and label of each seed, from that seed alone: z from its own generator, label seed mod classes.

    Consecutive seeds so have every label equally often. Labels drawn at random would add the noise of their
    counts to every metric: on digits, 1,797 images a range, that noise was the larger part of FID's spread.

    Args:
        seeds: n seeds, one per image.
        shape: of one latent, e.g. (C, H, W).
        classes: labels are 0..classes-1 in turn; 0 gives labels of 0 for unconditional generators.

    Returns:
        z float32 [n, *shape] standard normal, labels int64 [n].

    Source:
        one generator per seed, on the CPU: EDM's `StackedRandomGenerator` (Karras et al., 2022), which draws
        the labels at random.
    """
    latents = torch.empty(len(seeds), *shape)
    labels = torch.tensor([seed % classes if classes else 0 for seed in seeds])
    generator = torch.Generator()
    for i, seed in enumerate(seeds):
        generator.manual_seed(seed)
        torch.randn(tuple(shape), generator=generator, out=latents[i])
    return latents, labels


@torch.no_grad()
def generate_uint8(
    sample: Sample,
    seeds: Sequence[int],
    spec: ImageSpec,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The images of `seeds`, as bytes.

    Args:
        sample: the generator; called with z and labels on `device`, at most `batch_size` at a time.
        seeds: N seeds. Several processes may take a share each and concatenate what they made.
        spec: shape of latents and images, and the number of classes.
        progress: called after each batch with the number of images in it.

    Returns:
        uint8 [N, C, H, W] on the CPU, in the order of `seeds`.

    Raises:
        UserError: the generator returned another shape, or NaN or infinity, which bytes would hide.
    """
    images = torch.empty(len(seeds), *spec.shape, dtype=torch.uint8)
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        latents, labels = image_latents(batch, spec.shape, spec.classes)
        made = sample(latents.to(device), labels.to(device))
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
