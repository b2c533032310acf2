from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from tests.helpers.tiny_unet import tiny_unet

X = torch.randn(3, 1, 8, 8, generator=stream("network"))
C_NOISE = torch.tensor([-1.0, 0.0, 1.0])


def output_dtypes(network: UNetNetwork) -> dict[str, torch.dtype]:
    """What the first and the last convolution give in one forward under bfloat16 autocast on the CPU."""
    seen: dict[str, torch.dtype] = {}
    for name in ("conv_in", "conv_out"):

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
            seen[name] = output.dtype

        getattr(network.model, name).register_forward_hook(hook)
    with torch.autocast("cpu", torch.bfloat16):
        seen["network"] = network(X, C_NOISE, None).dtype
    return seen


def test_it_is_the_unet() -> None:
    """Without autocast the outputs are those of diffusers' UNet2DModel, bit for bit."""
    unet = tiny_unet()
    expected = unet(X, C_NOISE).sample
    assert torch.equal(UNetNetwork(unet)(X, C_NOISE, None), expected)
    assert expected.abs().max() > 0


def test_the_last_convolution_stays_in_float32_under_autocast() -> None:
    """The first convolution runs in bfloat16, the last and the network's output are float32."""
    assert output_dtypes(UNetNetwork(tiny_unet())) == {
        "conv_in": torch.bfloat16,
        "conv_out": torch.float32,
        "network": torch.float32,
    }


def test_the_last_convolution_stays_in_float32_after_a_float32_norm() -> None:
    """The same where the norm before it answers in float32, as CUDA's autocast has it."""
    network = UNetNetwork(tiny_unet())
    network.model.conv_norm_out.register_forward_hook(lambda module, inputs, output: output.float())
    assert output_dtypes(network)["network"] == torch.float32


def test_float32_output_resolves_small_differences() -> None:
    """Under autocast, a relative change of 1e-4 in the last weights shows; bfloat16 rounds at 4e-3."""
    network, x = UNetNetwork(tiny_unet()), X
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = network(x, C_NOISE, None)
        network.model.conv_out.weight.mul_(1 + 1e-4)
        network.model.conv_out.bias.mul_(1 + 1e-4)
        torch.testing.assert_close(network(x, C_NOISE, None) - before, 1e-4 * before, rtol=0.05, atol=1e-7)


def test_labels() -> None:
    """A conditional network tells labels apart; an unconditional one has none and ignores them."""
    conditional, plain = UNetNetwork(tiny_unet(labels=5)), UNetNetwork(tiny_unet())
    assert (conditional.labels, plain.labels) == (5, 0)
    zeros, mixed = torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 4])
    difference = (conditional(X, C_NOISE, zeros) - conditional(X, C_NOISE, mixed)).flatten(1).abs().amax(1)
    assert (difference > 1e-4).tolist() == [False, True, True]
    assert torch.equal(plain(X, C_NOISE, zeros), plain(X, C_NOISE, None))


def test_trainable_copy() -> None:
    """It learns, without dropout and in float32 (float64 where the original is), and shares nothing."""
    for kept, dtype in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ):
        frozen = UNetNetwork(tiny_unet()).to(kept).requires_grad_(False).eval()
        copy = frozen.trainable_copy()
        assert not copy.training
        assert not frozen.training
        for ours, theirs in zip(copy.parameters(), frozen.parameters(), strict=True):
            assert ours.requires_grad
            assert not theirs.requires_grad
            assert ours.dtype == dtype
            assert ours.data_ptr() != theirs.data_ptr()
            assert torch.equal(ours, theirs.to(dtype))


def test_gradients_flow_to_every_parameter() -> None:
    """One backward through the denoiser reaches all parameters, the float32 convolution among them."""
    network = UNetNetwork(tiny_unet()).trainable_copy()
    with torch.autocast("cpu", torch.bfloat16):
        NetworkDenoiser(network, EDMPreconditioning())(X, torch.ones(3)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize("down", ["DownBlock2D", "AttnDownBlock2D"])
def test_the_encoder_gives_what_each_side_ends_with(down: str) -> None:
    """The last resnet's output (or its attention's) at each side, the lowest first; no hook stays."""
    blocks = {"down_block_types": (down, down), "attention_head_dim": 8}
    network = UNetNetwork(tiny_unet(block_out_channels=(8, 16), layers_per_block=2, **blocks))
    seen: list[Tensor] = []
    for block in network.model.down_blocks:
        last = block.attentions[-1] if down == "AttnDownBlock2D" else block.resnets[-1]
        last.register_forward_hook(lambda m, i, out: seen.append(out))
    found = network.encoder(X, C_NOISE, None)
    assert [part.shape for part in found] == [(3, 16, 4, 4), (3, 8, 8, 8)]
    assert all(torch.equal(a, b) for a, b in zip(found, seen[::-1], strict=True))
    network(X, C_NOISE, None)
    assert len(seen) == 4
    assert len(found) == 2


def test_save_and_the_rest_of_the_interface(tmp_path: Path) -> None:
    """What it saves diffusers loads; channels and size are the configuration's."""
    network = UNetNetwork(tiny_unet(channels=2))
    network.save(tmp_path)
    loaded = UNet2DModel.from_pretrained(tmp_path)
    assert all(map(torch.equal, loaded.state_dict().values(), network.model.state_dict().values()))
    assert (network.channels, network.size, network.config["in_channels"]) == (2, 8, 2)
