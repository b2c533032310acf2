"""What the three stages minimise, and pictures beyond the data to do so on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel

COARSE = 4
"""Cells along one side of a random mask."""


def mixed(images: Tensor, g: torch.Generator) -> Tensor:
    """Each picture blended with another by a smooth random mask, under a random change of colours.

    Score distillation descends through the encoder's Jacobian from pictures that are no data yet. An encoder
    that knows clean solids alone maps garbage to good latents; one that must keep any smooth mixture of
    colours is close to invertible there.

    Args:
        images: [n, 3, S, S] in [−1, 1], as the result.
    """
    n, size = len(images), images.shape[-1]

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=images.device, dtype=images.dtype)

    def smooth(channels: int) -> Tensor:
        coarse = randn(n, channels, COARSE, COARSE)
        return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)

    share = (2 * smooth(1)).sigmoid()
    other = images[torch.randperm(n, generator=g, device=images.device)]
    blend = share * images + (1 - share) * other
    turn = torch.linalg.qr(randn(n, 3, 3)).Q
    turned = torch.einsum("nij,njhw->nihw", turn, blend) + 0.4 * randn(n, 3, 1, 1) + 0.3 * smooth(3)
    # Two thirds of the batch stay data, so that data are kept best.
    data = (torch.arange(n, device=images.device) % 3 > 0).view(-1, 1, 1, 1)
    return torch.where(data, images, turned.clamp(-1, 1))


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """mean |x̂ − x| + w · mean over pictures of KL(q(z|x) ‖ N(0, I)), with latents z = μ + σ · noise, of
    images [n, 3, S, S] in [−1, 1].

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
