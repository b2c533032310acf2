"""DMD updates of a CIFAR-10-size network: python -m benchmarks.gpu [--rounds 20] [--out FILE.json]

The published DDPM++ (55.7 M parameters, 32×32, random weights), R = 128, K = 4, one fake-score update: what
an update takes in seconds, generated images per second, model FLOP utilisation (FLOPs of the network calls
over the device's peak) and peak memory, for float32 and bf16-mixed, eager and compiled, the residual and the
frozen teacher in float32 and bfloat16, and several chunks of re-noisings. Each row is kept as soon as it is
measured. `--small` tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.flop_counter import FlopCounterMode

from carv_distill.carv import Chunk, NoiseLevelSampler, Proposal
from carv_distill.command_line import Parser, whole_number
from carv_distill.distillation.conditions import Labels
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.networks import labelled_networks
from carv_distill.distillation.objective import DMDObjective
from carv_distill.distillation.options import DMDOptions
from carv_distill.engine.console import quiet_libraries
from carv_distill.engine.estimator import Estimator
from carv_distill.files import write_json
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.edm.networks import SongUNet
from carv_distill.teachers.edm.unet import EDMNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.teachers.teacher import Teacher, edm_scheduler_config
from carv_distill.variance import Table

WARM_UP = 3
PEAKS = {
    "bf16-mixed": {"H100": 989e12, "H200": 989e12, "A100": 312e12},
    "32-true": {"H100": 495e12, "H200": 495e12, "A100": 156e12},
}
"""Dense FLOP/s by the vendors' data sheets: bfloat16, and TF32, in which torch convolves float32."""


@dataclass(frozen=True)
class Setting:
    """One row."""

    precision: str = "bf16-mixed"
    compile: bool = False
    residual: str = "float32"
    teacher_bfloat16: bool = False
    chunk: int | None = None


@dataclass(frozen=True)
class Measured:
    """What an update costs."""

    seconds: float
    images_per_second: float
    utilisation: float | None
    gigabytes: float | None


def settings(rows: int) -> Iterator[Setting]:
    """All rows of the table, for R·K = `rows`; the compiled ones, which take minutes, last."""
    plain = (Setting("32-true"), Setting(), Setting(residual="bfloat16"))
    yield from plain
    yield Setting(residual="bfloat16", teacher_bfloat16=True)
    for share in (4, 16):
        yield Setting(chunk=max(rows // share, 1))
    for setting in plain:
        yield replace(setting, compile=True)


def build(setting: Setting, upstream: int, draws: int, small: bool) -> DMDModule:
    """A module on random weights; its FLOPs are those of trained ones."""
    torch.manual_seed(0)
    size = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1} if small else {}
    unet = SongUNet(
        img_resolution=32,
        in_channels=3,
        out_channels=3,
        label_dim=10,
        augment_dim=9,
        **size,
    )
    schedule = EDMSchedule()
    denoiser = NetworkDenoiser(EDMNetwork(unet), EDMPreconditioning()).requires_grad_(False).eval()
    options = DMDOptions(
        fake_updates_per_student=1,
        fake_batch=upstream,
        compile=setting.compile,
        residual_precision=setting.residual,
    )
    teacher = Teacher(denoiser, schedule, edm_scheduler_config(schedule, 0.5))
    bfloat16 = setting.teacher_bfloat16
    networks = labelled_networks(teacher, 1.0, 10, bfloat16)
    objective = DMDObjective(networks, options, Labels(10), seed=0)
    sampler = NoiseLevelSampler(Proposal.uniform(), "nested")
    estimator = Estimator(sampler, upstream, draws, Chunk(setting.chunk))
    return DMDModule(objective=objective, estimator=estimator, seed=0)


class Timed(DMDModule):
    """Times its updates, the device synchronised, and counts the FLOPs of the first."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.seconds: list[float] = []
        self._wait()
        start = time.perf_counter()
        super().training_step(batch, batch_idx)
        self._wait()
        self.seconds.append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def count_flops(upstream: int, draws: int, small: bool) -> int:
    """FLOPs of one update by torch's counter, of an eager update."""
    module = build(Setting("32-true"), upstream, draws, small)
    with FlopCounterMode(display=False) as counter:
        _fit(module, 1, "32-true")
    return counter.get_total_flops()


def measure(setting: Setting, upstream: int, draws: int, rounds: int, small: bool, flops: int) -> Measured:
    """Medians over the rounds after the warm-up."""
    module = build(setting, upstream, draws, small)
    module.__class__ = Timed
    assert isinstance(module, Timed)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    _fit(module, rounds + WARM_UP, setting.precision)
    seconds = statistics.median(module.seconds[WARM_UP:])
    peaks = PEAKS[setting.precision]
    peak = next((p for name, p in peaks.items() if cuda and name in torch.cuda.get_device_name()), None)
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return Measured(seconds, upstream / seconds, flops / seconds / peak if peak else None, memory)


def _fit(module: DMDModule, steps: int, precision: str) -> None:
    Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=20)
    parser.add_argument("--upstream", type=whole_number(1), default=128)
    parser.add_argument("--draws", type=whole_number(1), default=4)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    a = parse()
    quiet_libraries()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    flops = count_flops(a.upstream, a.draws, a.small)
    head = {"device": device, "torch": torch.__version__, "R": a.upstream, "K": a.draws, "flops": flops}
    head |= {"rounds": a.rounds, "small": a.small}
    rows = []
    for setting in settings(a.upstream * a.draws):
        rows.append((setting, measure(setting, a.upstream, a.draws, a.rounds, a.small, flops)))
        print(f"{rows[-1][0]}: {rows[-1][1].seconds:.3g} s", flush=True)
        if a.out:
            write_json(a.out, {**head, "rows": [{**asdict(s), **asdict(m)} for s, m in rows]})
    print(table_of(rows, device))


def table_of(rows: list[tuple[Setting, Measured]], device: str) -> Table:
    """A row for each setting."""
    names = ("precision", "compiled", "residual", "teacher", "chunk", "s/update", "images/s", "MFU", "GiB")
    cells = [
        (
            setting.precision,
            "yes" if setting.compile else "no",
            setting.residual,
            "bfloat16" if setting.teacher_bfloat16 else "float32",
            str(setting.chunk or "all"),
            f"{m.seconds:.3g}",
            f"{m.images_per_second:.4g}",
            "–" if m.utilisation is None else f"{m.utilisation:.0%}",
            "–" if m.gigabytes is None else f"{m.gigabytes:.1f}",
        )
        for setting, m in rows
    ]
    return Table(f"A DMD update on {device}", names, cells)


if __name__ == "__main__":
    main()
