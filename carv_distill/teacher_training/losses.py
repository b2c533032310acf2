"""What the three stages minimise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """mean |x̂ − x| + w · mean over pictures of KL(q(z|x) ‖ N(0, I)).

    Args:
        images: [n, 3, S, S] in [−1, 1].
        noise: of the latents, [n, C, s, s]: z = μ + σ · noise.

    Source: Rombach et al. 2022, section 3.1, without perceptual and adversarial parts.
    """
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
    return F.l1_loss(decoded, images) + kl_weight * posterior.kl().mean()


def jacobian_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor, g: torch.Generator) -> Tensor:
    """1 − cos(J_encᵀ d, J_dec d), the mean over pictures: the encoder's transposed Jacobian moves a picture
    as the decoder would.

    Score distillation descends along J_encᵀ d. Left alone, a small encoder answers that with textures and
    false colours, which it then takes for the wanted latents; tied to the decoder, the step stays among
    pictures. The two are equal for principal components, and parallel for an isometric autoencoder.

    Args:
        images: [n, 3, S, S]; they are faded towards grey by random shares, as fields begin.
        noise: of d, [n, C, s, s]; the rest of d leads to the latents of another picture.
        g: of the shares.
    """
    share = torch.rand(len(images), 1, 1, 1, generator=g, device=images.device)
    faded = (share * images).requires_grad_()
    latents = vae.encode(faded).latent_dist.mean
    d = (0.3 * noise + latents.roll(1, 0) - latents).detach()
    (encoded,) = torch.autograd.grad((latents * d).sum(), faded, create_graph=True)
    step = 0.1
    ahead, behind = (vae.decode(latents + s * d, return_dict=False)[0] for s in (step, -step))
    return 1 - F.cosine_similarity(encoded.flatten(1), (ahead - behind).flatten(1)).mean()


def contrastive_loss(clip: CLIPModel, images: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's loss, where pictures of one prompt are matches of each other: a batch has many such.

    With s_ij = scale · cos(image_i, text_j) and m_ij = 1 for equal prompts, the mean over rows and columns
    of the cross-entropy of softmax(s) to m normalised.

    Args:
        images: [n, 3, S, S] in [−1, 1].
        tokens: [n, L].

    Source: Radford et al. 2021, section 2.3; several positives: Khosla et al. 2020, L_out.
    """
    s = clip(input_ids=tokens, pixel_values=images).logits_per_image
    match = (tokens[:, None] == tokens[None]).all(-1).to(s.dtype)
    match = match / match.sum(1, keepdim=True)
    return (F.cross_entropy(s, match) + F.cross_entropy(s.T, match)) / 2


@torch.no_grad()
def clamp_scale(clip: CLIPModel) -> None:
    """Keeps CLIP's scale at 100 or below (Radford et al. 2021, section 2.5)."""
    clip.logit_scale.clamp_(max=torch.tensor(100.0).log().item())
