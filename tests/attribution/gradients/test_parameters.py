"""Parameters by pattern and by preset."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import WanTransformer3DModel

from carv_distill.attribution.gradients.parameters import PRESETS, matching
from carv_distill.errors import UserError
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.low_rank import LowRankOptions
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.tiny_pipelines import EVERY, SIZES
from tests.helpers.tiny_unet import tiny_unet

NAMES = ["conv_in.weight", "mid.attn.to_q.weight", "mid.ff.net.0.proj.weight", "to_k.bias", "mid.norm.weight"]


def test_patterns_and_presets_keep_the_networks_order() -> None:
    assert matching(NAMES, ["*"]) == NAMES
    assert matching(NAMES, ["mlp", "attention"]) == [NAMES[1], NAMES[2], NAMES[3]]
    assert matching(NAMES, ["attention", "conv_in.*"]) == [NAMES[0], NAMES[1], NAMES[3]]
    assert matching(NAMES, ["attention", "*.to_q.*"]) == [NAMES[1], NAMES[3]]


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            ["lora"],
            r"^--parameters: lora stands for \*\.lora_\[AB\]\.\*, which match none of the 5 parameters; they",
        ),
        (["*", "lora"], r"^--parameters: lora stands for"),
        (["atention"], r"^--parameters: 'atention' matches none of the 5 parameters.*attention"),
        (["*.to_v.*"], r"^--parameters: '\*\.to_v\.\*' matches none of the 5"),
        ([], r"^--parameters: no pattern was given .*attention, mlp, lora"),
    ],
)
def test_what_matches_nothing_is_refused_by_name(patterns: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        matching(NAMES, patterns)
    with pytest.raises(UserError, match="has no parameters"):
        matching([], ["attention"])


def test_presets_of_diffusers_networks(tmp_path: Path) -> None:
    """Of a block of Wan's twenty of attention's (twice four weights with biases and two norms), and four of
    its feed-forward layer. Nothing is in two presets; every family with attention to prompts has both."""
    for name in ("wan", "sd", "sdxl", "sd3", "flux", "pixart_sigma"):
        network = load_text_teacher(EVERY[name](tmp_path / name), SIZES.get(name, ())).network.model
        names = [n for n, _ in network.named_parameters()]
        attention, mlp = (matching(names, [preset]) for preset in ("attention", "mlp"))
        assert not set(attention) & set(mlp)
        assert not any(part in n for n in attention for part in ("ff", "proj_in", "conv", "embed"))
        assert not any("attn" in n for n in mlp)
        if isinstance(network, WanTransformer3DModel):
            layers = len(network.blocks)
            assert (len(attention), len(mlp)) == (layers * 2 * (4 * 2 + 2), layers * 4)
    unet = [n for n, _ in tiny_unet(add_attention=True, attention_head_dim=4).named_parameters()]
    assert len(matching(unet, ["attention"])) % 8 == 0
    with pytest.raises(UserError, match=r"--parameters: mlp stands for .*\.ff\."):
        matching(unet, ["mlp"])


def test_lora_is_peft_s_adapters(tmp_path: Path) -> None:
    network = load_text_teacher(EVERY["sd"](tmp_path)).network
    shared = SharedNetwork(network, LowRankOptions(rank=2), ["own"], 0, "test")
    chosen = matching([n for n, _ in shared.network.named_parameters()], ["lora"])
    assert len(chosen) == 2 * len(shared.layers)
    assert all(".lora_A." in n or ".lora_B." in n for n in chosen)
    assert set(PRESETS) == {"attention", "mlp", "lora"}
