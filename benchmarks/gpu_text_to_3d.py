"""Text-to-3D on one GPU with a teacher of Stable Diffusion 2.1's size: what a step and an export cost.

    python -m benchmarks.gpu_text_to_3d --out results.json [--rounds 10] [--scenes hash …] [--small]

Random weights, `configs/sd21/sds_carv.yaml`, frozen parts in float16, 512 × 512 pictures: of a hash scene,
voxels and 10,000 Gaussians the seconds of a step at (4, 1) and (1, 16), their peak memory, the cost κ of a
render with its encoding and backward in draws, and of an export of 120 frames of 512 × 512 seconds and peak
memory. Each row is kept as soon as it is measured. `--small` tries the script on the shipped miniature.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from lightning.pytorch import Trainer
from transformers import CLIPTextConfig, CLIPTextModel

from carv_distill.carv import Chunk
from carv_distill.command_line import Extend, Parser, whole_number
from carv_distill.engine.console import quiet_libraries
from carv_distill.files import write_json
from carv_distill.tasks import load_config
from carv_distill.teachers.pipelines.stable_diffusion import save_latent_teacher
from carv_distill.teachers.prompts import word_tokenizer
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.object.turntable import write_turntable
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.preparation import build_module
from carv_distill.variance import CostModel, StageTimer, time_stages

GIB, WARM_UP = 2**30, 3
SCENES = {
    "hash": (),
    "voxels": ("scene.kind=voxels", "scene.resolution=128"),
    "gaussians": ("scene.kind=gaussians", "scene.gaussians.count=10000"),
}
PLACES = ((4, 1, 1), (4, 1, 4), (1, 16, 1))
"""R, K and the renders at once; (4, 1) and (1, 16) cost the same where κ = 4."""
SMALL = (
    "teacher.path=checkpoints/shapes-teacher",
    "sds.prompt=a red torus",
    "scene.size=32",
    "scene.resolution=32",
    "scene.samples=16",
)


@dataclass(frozen=True)
class Measured:
    """Of a scene at one (R, K)."""

    scene: str
    upstream: int
    draws: int
    at_once: int
    """Renders that a step works through at a time."""
    seconds: float
    """Of a step, the median."""
    peak_gib: float
    kappa: float
    """Of all renders at once."""
    render: float
    """Seconds of a render with its encoding, forward and backward,"""
    draw: float
    """and of a draw under guidance."""


class Timed(SDSModule):
    """Times its steps, the device synchronised."""

    seconds: list[float]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        wait()
        start = time.perf_counter()
        super().training_step(batch, batch_idx)
        wait()
        self.seconds.append(time.perf_counter() - start)


def wait() -> None:
    """Until the device has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> float:
    """GiB, since the last call."""
    if not torch.cuda.is_available():
        return 0.0
    found = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return found


def save_teacher(folder: Path) -> None:
    """The networks of Stable Diffusion 2.1 (base) by their published configurations, with random weights; of
    its text encoder one layer."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(["a", "view"], length=77)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=1,
        num_attention_heads=16,
        **ids,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    kinds = {
        f"{way}_block_types": (f"{name}Block2D",) * 4
        for way, name in (("down", "DownEncoder"), ("up", "UpDecoder"))
    }
    vae = AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False)
    save_latent_teacher(folder, vae, unet, tokenizer, CLIPTextModel(text), scheduler)


def build(words: tuple[str, ...], device: str) -> SDSModule:
    """The module of a run, on the device."""
    config = load_config("configs/sd21/sds_carv.yaml", words)
    assert isinstance(config, SDSConfig)
    return build_module(config, device).to(device)


def measure(
    scene: str, place: tuple[int, int, int], words: tuple[str, ...], rounds: int, device: str
) -> Measured:
    """Steps in a real trainer, then the stages of a gradient."""
    upstream, draws, at_once = place
    sizes = f"estimator.upstream={upstream}", f"estimator.draws={draws}", f"sds.renders_at_once={at_once}"
    module = build((*words, *sizes), device)
    module.__class__ = Timed
    assert isinstance(module, Timed)
    module.seconds = []
    peak()
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed",
        max_steps=rounds + WARM_UP,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    highest, o = peak(), module.objective.to(device)
    timer = StageTimer(device)
    parts = (o.pipeline(0), o.learned, o.levels.configured(0), upstream, draws, timer, rounds)
    with torch.autocast(device, torch.bfloat16):
        time_stages(*parts, chunk=Chunk(module.estimator.chunk))
    cost = CostModel.measured(timer)
    seconds = statistics.median(module.seconds[WARM_UP:])
    return Measured(scene, *place, seconds, highest, cost.kappa, cost.sample, cost.draw)


def measure_export(scene: str, words: tuple[str, ...], small: bool, device: str) -> dict[str, Any]:
    """The film once around a scene as it starts."""
    module = build(words, device)
    frames, size = (4, 64) if small else (120, 512)
    gc.collect()
    peak()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_turntable(Path(folder) / "object", module.scene, module.objective.view, frames, size)
    seconds = time.perf_counter() - start
    return {"scene": scene, "frames": frames, "size": size, "seconds": seconds, "peak_gib": peak()}


def main() -> None:
    """The command."""
    a = parse()
    quiet_libraries()
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    name = torch.cuda.get_device_name() if cuda else "CPU"
    result: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "rounds": a.rounds,
        "small": a.small,
    }
    result |= {"steps": [], "exports": []}

    def keep(kind: str, row: dict[str, Any]) -> None:
        result[kind].append(row)
        print(row, flush=True)
        write_json(a.out, result)
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()

    with tempfile.TemporaryDirectory() as folder:
        teacher: tuple[str, ...] = SMALL
        if not a.small:
            save_teacher(Path(folder))
            teacher = (f"teacher.path={folder}", "sds.prompt=a view")
        for scene in a.scenes:
            words = (*teacher, f"trainer.accelerator={device}", *SCENES[scene])
            for place in PLACES:
                keep("steps", asdict(measure(scene, place, words, a.rounds, device)))
            keep("exports", measure_export(scene, words, a.small, device))


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=10)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--scenes", choices=SCENES, nargs="+", action=Extend, default=tuple(SCENES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
