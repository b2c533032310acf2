"""The page that goes with a student's weights."""

_CARD = """\
# One-step student

A one-step generator distilled from a diffusion teacher with carv-distill, after {updates} student updates.
The network is a `UNet2DModel`; the scheduler's configuration holds the parametrisation. With an
`EDMEulerScheduler`:

    import torch
    from diffusers import EDMEulerScheduler, UNet2DModel

    unet, edm = UNet2DModel.from_pretrained("."), EDMEulerScheduler.from_pretrained(".")
    sigma = torch.tensor([{sigma_max:g}])
    x = sigma * torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    labels = torch.tensor([3]) if unet.config.num_class_embeds else None
    with torch.no_grad():
        scaled, level = edm.precondition_inputs(x, sigma), edm.precondition_noise(sigma)
        raw = unet(scaled, level, class_labels=labels).sample
    image = edm.precondition_outputs(x, raw, sigma)  # in [-1, 1]
"""


def student_card(sigma_max: float, updates: int) -> str:
    """How to use the student with diffusers alone."""
    return _CARD.format(sigma_max=sigma_max, updates=updates)
