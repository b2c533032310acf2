"""The EDM networks against numbers that the original code gave for the same weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carv_distill.teachers.edm.layers import separable_filter
from carv_distill.teachers.edm.networks import DhariwalUNet, SongUNet
from carv_distill.teachers.edm.unet import EDMNetwork
from tests.helpers.edm_networks import CONFIGS, inputs, small

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_original_gave_the_same(name: str) -> None:
    """Outputs with labels and augmentation, and without, to 1e-5; as many tensors and entries."""
    network = small(name)
    x, c_noise, labels, augmented = inputs(CONFIGS[name].get("augment_dim", 0))
    with torch.no_grad():
        labelled = network(x, c_noise, labels, augmented).sample
        null = network(x, c_noise, return_dict=False)[0]
    for found, key in ((labelled, "labelled"), (null, "null")):
        torch.testing.assert_close(found.flatten()[::31], torch.tensor(GOLDEN[name][key]), rtol=0, atol=1e-5)
    state = network.state_dict()
    assert len(state) == GOLDEN[name]["tensors"]
    assert sum(t.numel() for t in state.values()) == GOLDEN[name]["entries"]


@pytest.mark.parametrize(
    ("kind", "config", "parameters"),
    [
        (SongUNet, {"channel_mult": [2, 2, 2], "label_dim": 10, "augment_dim": 9}, 55_735_299),
        (
            SongUNet,
            {
                "channel_mult": [2, 2, 2],
                "label_dim": 10,
                "augment_dim": 9,
                "embedding_type": "fourier",
                "encoder_type": "residual",
                "channel_mult_noise": 2,
                "resample_filter": [1, 3, 3, 1],
            },
            56_400_643,
        ),
        (SongUNet, {"img_resolution": 64, "augment_dim": 9}, 61_805_571),
        (DhariwalUNet, {"img_resolution": 64, "label_dim": 1000}, 295_899_267),
    ],
)
def test_published_sizes(kind: type[nn.Module], config: dict[str, Any], parameters: int) -> None:
    """CIFAR-10 VP and VE, FFHQ VP and ImageNet-64 ADM, from the defaults: the original's parameter counts."""
    with torch.device("meta"):
        network = kind(**{"img_resolution": 32, "in_channels": 3, "out_channels": 3, **config})
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_names_of_the_files() -> None:
    """Some names and shapes that the published files have."""
    with torch.device("meta"):
        vp = SongUNet(32, 3, 3, label_dim=10, augment_dim=9, channel_mult=[2, 2, 2])
        ve = SongUNet(32, 3, 3, encoder_type="residual", embedding_type="fourier", channel_mult_noise=2)
        adm = DhariwalUNet(64, 3, 3, label_dim=1000)
    expected = {
        "map_label.weight": (128, 10),
        "map_augment.weight": (128, 9),
        "map_layer0.weight": (512, 128),
        "enc.32x32_conv.weight": (128, 3, 3, 3),
        "enc.32x32_block0.norm0.weight": (128,),
        "enc.32x32_block0.affine.weight": (256, 512),
        "enc.32x32_block0.skip.weight": (256, 128, 1, 1),
        "enc.16x16_down.conv0.resample_filter": (1, 1, 2, 2),
        "enc.16x16_down.skip.weight": (256, 256, 1, 1),
        "enc.16x16_block0.qkv.weight": (768, 256, 1, 1),
        "dec.8x8_in0.proj.weight": (256, 256, 1, 1),
        "dec.16x16_block4.qkv.bias": (768,),
        "dec.32x32_aux_norm.weight": (256,),
        "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }
    state = vp.state_dict()
    assert {k: tuple(state[k].shape) for k in expected} == expected
    assert "dec.16x16_block3.qkv.weight" not in state
    assert ve.state_dict()["map_noise.freqs"].shape == (128,)
    assert ve.state_dict()["enc.16x16_aux_residual.weight"].shape == (128, 3, 3, 3)
    assert adm.state_dict()["map_label.weight"].shape == (768, 1000)
    assert {"enc.32x32_down.skip.resample_filter", "out_norm.weight"} <= adm.state_dict().keys()
    assert "enc.32x32_down.skip.weight" not in adm.state_dict()


def test_no_label_is_the_zero_vector() -> None:
    """None, and the index after the last class."""
    network = small("ncsn++")
    x, c_noise, _, _ = inputs()
    with torch.no_grad():
        none = network(x, c_noise).sample
        beyond = network(x, c_noise, torch.full((3,), 10)).sample
    assert torch.equal(none, beyond)


def test_dropout_and_label_dropout_only_in_training() -> None:
    """In evaluation mode two calls are equal; in training, with every label dropped, the label is nothing."""
    network = small("adm", dropout=0.5)
    x, c_noise, labels, _ = inputs()
    with torch.no_grad():
        once, again = (network(x, c_noise, labels).sample for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(network.train()(x, c_noise, labels).sample, once)
        dropped = small("adm", dropout=0.0, label_dropout=1.0)
        assert torch.equal(dropped.train()(x, c_noise, labels).sample, dropped(x, c_noise).sample)
        assert torch.equal(dropped.eval()(x, c_noise, labels).sample, once)


def test_save_and_load(tmp_path: Path) -> None:
    """diffusers' own methods give the network back, bit for bit; the folder has JSON and safetensors only."""
    network = small("ncsn++")
    network.save_pretrained(tmp_path)
    loaded = SongUNet.from_pretrained(tmp_path).eval()
    x, c_noise, labels, _ = inputs()
    with torch.no_grad():
        assert torch.equal(loaded(x, c_noise, labels).sample, network(x, c_noise, labels).sample)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", CONFIGS)
def test_fresh_weights(name: str) -> None:
    """A fresh network predicts next to nothing, as its last convolution is of size 1e-5 or 0."""
    network = (DhariwalUNet if name == "adm" else SongUNet)(**CONFIGS[name]).eval()
    x, c_noise, labels, _ = inputs()
    with torch.no_grad():
        assert network(x, c_noise, labels).sample.abs().max() < 1e-3
    assert network.state_dict()["map_layer0.weight"].std() > 0.01


@pytest.mark.parametrize("key", ["embedding_type", "encoder_type", "decoder_type"])
def test_unknown_kinds(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} 'other' is not one of "):
        SongUNet(8, 3, 3, **{key: "other"})


def test_filters() -> None:
    """[1, 3, 3, 1] and [1, 1], both summing to one."""
    assert torch.equal(separable_filter([1, 1]), torch.full((1, 1, 2, 2), 0.25))
    wide = separable_filter([1, 3, 3, 1])
    assert wide.sum() == 1
    assert wide[0, 0, 0].tolist() == [1 / 64, 3 / 64, 3 / 64, 1 / 64]


# ---------------------------------------------------------------- as raw networks


@pytest.mark.parametrize("name", CONFIGS)
def test_the_interface(name: str) -> None:
    """Channels, size, labels; the encoder's features are at each side, the lowest first."""
    raw = EDMNetwork(small(name))
    x, c_noise, labels, _ = inputs()
    assert (raw.channels, raw.size, raw.labels) == (3, 8, CONFIGS[name].get("label_dim", 0))
    widths = [CONFIGS[name]["model_channels"] * m for m in CONFIGS[name]["channel_mult"]]
    sides = [(3, width, 8 >> level, 8 >> level) for level, width in enumerate(widths)]
    with torch.no_grad():
        assert [part.shape for part in raw.encoder(x, c_noise, labels)] == sides[::-1]
        assert torch.equal(raw(x, c_noise, labels), raw.model(x, c_noise, labels).sample)


def test_the_encoder_gives_the_last_block_of_each_side() -> None:
    """Of two, in a full forward: what DMD2 calls the bottleneck comes first, before the middle's blocks."""
    raw = EDMNetwork(small("ddpm++", num_blocks=2))
    x, c_noise, labels, _ = inputs()
    seen = []
    for side in (8, 4):
        block = raw.model.enc[f"{side}x{side}_block1"]
        block.register_forward_hook(lambda m, i, output: seen.append(output))
    with torch.no_grad():
        raw(x, c_noise, labels)
        found = raw.encoder(x, c_noise, labels)
    assert all(torch.equal(a, b) for a, b in zip(found, seen[1::-1], strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_keeps_the_output_in_float32(name: str) -> None:
    """Under bfloat16 autocast the output is float32, close to the float32 one, and resolves small changes."""
    raw = EDMNetwork(small(name))
    last = raw.model.out_conv if name == "adm" else raw.model.dec["8x8_aux_conv"]
    x, c_noise, labels, _ = inputs()
    with torch.no_grad():
        exact = raw(x, c_noise, labels)
        with torch.autocast("cpu", torch.bfloat16):
            before = raw(x, c_noise, labels)
            last.bias.add_(1e-5)
            after = raw(x, c_noise, labels)
    assert before.dtype == torch.float32
    assert (before - exact).abs().max() < 0.1 * exact.abs().max()
    torch.testing.assert_close(after - before, torch.full_like(x, 1e-5), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_parameter(name: str) -> None:
    """Of a trainable copy, under autocast; the original stays frozen and shares nothing."""
    frozen = EDMNetwork(small(name)).requires_grad_(False)
    copy = frozen.trainable_copy()
    x, c_noise, labels, augmented = inputs(CONFIGS[name].get("augment_dim", 0))
    with torch.autocast("cpu", torch.bfloat16):
        copy.model(x, c_noise, labels, augmented).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in copy.parameters())
    assert sum(bool(p.grad.abs().max() == 0) for p in copy.parameters()) == 0
    assert not any(p.requires_grad for p in frozen.parameters())


def test_float64() -> None:
    """A copy in float64 computes in float64, close to float32."""
    raw = EDMNetwork(small("ncsn++"))
    x, c_noise, labels, _ = inputs()
    with torch.no_grad():
        single = raw(x, c_noise, labels)
        double = EDMNetwork(raw.model.double())(x.double(), c_noise.double(), labels)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, single.double(), rtol=0, atol=2e-5)
