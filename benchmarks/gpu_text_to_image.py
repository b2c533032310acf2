"""Text-to-image distillation on one GPU: memory and seconds of an update of networks of published sizes,
with random weights, and what half precision does to a guided draw of the shipped miniature.

    python -m benchmarks.gpu_text_to_image --out results.json [--small]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.published_networks import SD15, SDXL, Published
from carv_distill.carv import Chunk, NoiseLevelSampler, Proposal, stream
from carv_distill.distillation.conditions import Conditions
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.networks import prompted_networks
from carv_distill.distillation.objective import DMDObjective
from carv_distill.distillation.options import AdapterOptions, DMDOptions
from carv_distill.engine.estimator import Estimator
from carv_distill.teachers.condition import Condition, HeldCondition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.parametrisation import EpsPreconditioning
from carv_distill.teachers.pipelines.families import FAMILIES
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.schedule import VPSchedule

GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """One row."""

    name: str
    network: Published
    adapters: str
    rank: int
    frozen: str
    """Precision of the frozen weights."""
    checkpointing: bool
    guidance: float = 7.5
    draws: int = 2
    optimiser: str = "adamw"
    averages: str = "device"
    """Where they lie."""


SETTINGS = (
    Setting("SDXL, rank 64", SDXL, "lora", 64, "bfloat16", True),
    Setting("SDXL, rank 64", SDXL, "lora", 64, "bfloat16", False),
    Setting("SDXL, rank 16, no guidance", SDXL, "lora", 16, "bfloat16", False, guidance=1.0),
    Setting("SD 1.5, rank 64", SD15, "lora", 64, "bfloat16", False),
    Setting("SD 1.5, rank 64", SD15, "lora", 64, "float16", False),
    Setting("SD 1.5, all weights", SD15, "none", 0, "bfloat16", False),
    Setting("SD 1.5, all weights", SD15, "none", 0, "bfloat16", True),
    Setting("SDXL, all weights", SDXL, "none", 0, "bfloat16", True, optimiser="adamw_8bit", averages="host"),
)


class RandomPrompts(Conditions):
    """Eight prompts of random embeddings."""

    count = 8

    def __init__(self, network: Published) -> None:
        super().__init__()
        g = stream("prompts")
        pooled = torch.randn(8, network.pooled, generator=g) if network.pooled else None
        ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]]).repeat(8, 1) if network.pooled else None
        rows = Condition(torch.randn(8, network.tokens, network.width, generator=g), None, pooled, ids)
        self.held = HeldCondition(rows)

    def draw(self, count: int, g: torch.Generator) -> Tensor:
        return torch.randint(8, (count,), generator=g, device=g.device)

    def forward(self, numbers: Tensor) -> Condition:
        value = self.held.value
        assert isinstance(value, Condition)
        return value[numbers]


class RandomTeacher(TextTeacher):
    """A network of a published size with random weights, and no other parts."""

    def __init__(self, published: Published, device: str, guidance: float) -> None:
        torch.nn.Module.__init__(self)
        family = FAMILIES["StableDiffusionXLPipeline" if published.pooled else "StableDiffusionPipeline"]
        torch.manual_seed(0)
        with torch.device(device):
            model = published.model(**published.config)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        self.schedule = VPSchedule(betas)
        network: PromptNetwork = family.network(model, published.shape)
        network.requires_grad_(False).eval()
        self.denoiser = NetworkDenoiser(network, EpsPreconditioning(self.schedule))

    def guided(self, scale: float, negative: str = "") -> NetworkDenoiser:
        if scale == 1:
            return self.denoiser
        return GuidedDenoiser(self.denoiser, scale, self.null)

    null: Condition


def module_of(setting: Setting, device: str) -> DMDModule:
    """One sample, one fake-score sample, an update each."""
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    options = DMDOptions(
        fake_updates_per_student=1,
        fake_batch=1,
        t_min=0.02,
        t_max=0.98,
        student_timestep=399,
        gradient_checkpointing=setting.checkpointing,
        optimiser=setting.optimiser,
        ema_memory=setting.averages,
        adapters=AdapterOptions(kind=setting.adapters, rank=max(setting.rank, 1)),
    )
    conditions = RandomPrompts(setting.network)
    teacher = RandomTeacher(setting.network, device, setting.guidance)
    teacher.null = conditions(torch.tensor(0))
    networks = prompted_networks(teacher, options, setting.guidance, "", kinds[setting.frozen], 0)
    objective = DMDObjective(networks, options, conditions, 0)
    sampler = NoiseLevelSampler(Proposal.uniform(1000), "stratified")
    module = DMDModule(
        objective=objective, estimator=Estimator(sampler, 1, setting.draws, Chunk(None)), seed=0
    )
    return module.to(device)


def measure(setting: Setting, device: str, repeats: int) -> dict[str, Any]:
    """Peak memory and the median seconds of an update."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    module = module_of(setting, device)
    optimizers = module.configure_optimizers()
    seconds = []
    # without a cache of cast weights, as Lightning's own
    autocast = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
    mixed = autocast if device == "cuda" else contextlib.nullcontext()
    for step in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        with mixed:
            fake = module.fake_updates(optimizers[1:], step)
            module.student_update(optimizers[0], step)  # type: ignore[arg-type]
        _wait(device)
        seconds.append(time.perf_counter() - start)
    held = torch.cuda.memory_allocated() / GIB if device == "cuda" else 0.0
    peak = torch.cuda.max_memory_allocated() / GIB if device == "cuda" else 0.0
    return {
        **{k: v for k, v in asdict(setting).items() if k != "network"},
        "parameters": sum(p.numel() for p in module.objective.teacher.network.parameters()),
        "learning": sum(p.numel() for p in module.objective.student_parameters),
        "held_gib": held,
        "peak_gib": peak,
        "seconds": sorted(seconds[2:])[repeats // 2],
        "finite": bool(torch.isfinite(fake)),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def half_precision(device: str) -> list[dict[str, Any]]:
    """Relative error of guided ε̂ − ε of single draws, and of the mean of 32 of one picture, against
    float32."""
    exact = load_text_teacher("checkpoints/shapes-teacher")
    cond = exact.prompts(["a red torus, side view"])
    x = exact.denoiser.of_noise(
        torch.randn(1, *exact.shape, generator=stream("x")), torch.tensor([2.0]), cond
    ).to(device)
    eps = torch.randn(32, *exact.shape, generator=stream("eps")).to(device)
    rows = exact.schedule.table[torch.linspace(20, 980, 32).long()].float().to(device)
    many = cond[torch.zeros(32, dtype=torch.long)].to(device)
    found = []
    for guidance in (1.0, 7.5, 100.0):
        residuals = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            teacher = load_text_teacher("checkpoints/shapes-teacher")
            guided = teacher.guided(guidance).to(device)
            network = guided.network
            assert isinstance(network, PromptNetwork)
            network.cast(dtype)
            residuals[dtype] = guided.predict_noise(x.expand(32, -1, -1, -1), rows, eps, many) - eps
        exactly = residuals[torch.float32]
        for dtype in (torch.bfloat16, torch.float16):
            error = residuals[dtype] - exactly
            draw = error.flatten(1).norm(dim=1) / exactly.flatten(1).norm(dim=1)
            mean = error.mean(0).norm() / exactly.mean(0).norm()
            row = {"guidance": guidance, "precision": str(dtype).removeprefix("torch.")}
            found.append({**row, "draw": float(draw.mean()), "mean_of_32": float(mean)})
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of the settings; all by default")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "half_precision": half_precision(options.device),
        "updates": [],
    }
    for number, setting in enumerate(SETTINGS):
        if options.rows is not None and number not in options.rows:
            continue
        try:
            row = measure(setting, options.device, options.repeats)
        except torch.cuda.OutOfMemoryError:
            row = {**{k: v for k, v in asdict(setting).items() if k != "network"}, "out_of_memory": True}
        result["updates"].append(row)
        print(json.dumps(row), flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
