"""A miniature Stable Diffusion as a folder that diffusers and transformers read."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextModel, CLIPTokenizer

from carv_distill.errors import UserError
from carv_distill.files import updated_folder
from carv_distill.teachers.latent import save_latent_teacher


def save_text_teacher(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    clip: CLIPModel,
    step: int,
) -> None:
    """A StableDiffusionPipeline, its CLIP model with processor in clip/, and a page on both; written whole
    or not at all.

    Raises:
        UserError: a file could not be written; those that were there before are kept.
    """
    size = vae.config.sample_size
    half = [0.5, 0.5, 0.5]
    side = {"height": size, "width": size}
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=half, image_std=half
    )
    try:
        with updated_folder(folder) as scratch:
            save_latent_teacher(scratch, vae, unet, tokenizer, text_encoder, scheduler)
            clip.save_pretrained(scratch / "clip")
            CLIPProcessor(images, tokenizer).save_pretrained(scratch / "clip")
            (scratch / "README.md").write_text(_card(size, step))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: could not be written ({' '.join(str(error).split())[:200]})") from error


def _card(size: int, step: int) -> str:
    return f"""# A miniature Stable Diffusion

Text to {size}×{size} pictures of one coloured solid on grey, as "a red torus, side view"; trained by
carv-distill for {step} steps on pictures it rendered itself. A `StableDiffusionPipeline`:

```python
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(".", safety_checker=None)
pipeline("a red torus, side view", height={size}, width={size}).images[0]
```

`clip/` is a `CLIPModel` with its processor, trained on the same pairs.
"""
