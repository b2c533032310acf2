"""The model of memory against what miniatures take: what stays after an update of AdamW, the tensors that
autograd saves, the peak of a backward and of whole updates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks.measure import bare_fit, peak_bytes
from benchmarks.published_networks import Published, adapted_layers
from benchmarks.updates import build
from carv_distill.distillation.memory.footprint import adapter_count, footprints, parameter_count
from carv_distill.distillation.memory.needs import Calls, Plan
from carv_distill.distillation.module import DMDModule
from carv_distill.engine.optimisation import ParameterVector, frozen_copy
from carv_distill.files import read_json
from carv_distill.variance import Table


def shapes_teacher() -> Published:
    """The network of the miniature that ships in `checkpoints/`, by its own configuration."""
    config = read_json(Path("checkpoints/shapes-teacher/unet/config.json"))
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    side, channels, width = config["sample_size"], config["in_channels"], config["cross_attention_dim"]
    return Published("shapes UNet", UNet2DConditionModel, config, (channels, side, side), 16, width)


MINIATURES = (
    Published(
        "tiny SD3",
        SD3Transformer2DModel,
        {
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "joint_attention_dim": 32,
            "caption_projection_dim": 64,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        (4, 16, 16),
        16,
        32,
        pooled=32,
    ),
    Published(
        "tiny Flux",
        FluxTransformer2DModel,
        {
            "patch_size": 1,
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 6, 6),
            "guidance_embeds": True,
        },
        (64, 16),
        16,
        32,
        pooled=32,
        guided=False,
        grid=8,
    ),
)


def kept_bytes(network: nn.Module, call: Callable[[], Tensor]) -> int:
    """Bytes that autograd saves for a backward, the network's own left out and each storage counted once,
    and those of the output."""
    own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    storages[output.untyped_storage().data_ptr()] = output.untyped_storage()
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


def with_adapters(model: nn.Module, rank: int, names: Sequence[str] = ("student",)) -> nn.Module:
    """The network, frozen, with adapters by peft, that have no memory yet and of which the first learns."""
    config = LoraConfig(r=rank, target_modules=list(adapted_layers(model)), bias="none")
    for name in names:
        inject_adapter_in_model(config, model, name, low_cpu_mem_usage=True)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(f".{names[0]}." in key)
    return model


def retype(model: nn.Module, frozen: torch.dtype) -> None:
    """Adapters in float32, else all in this type; memory for what has none, fake where that is on."""
    for name, module in model.named_modules():
        for key, p in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            dtype = torch.float32 if ".lora_" in name or not p.is_floating_point() else frozen
            on_meta = p.device.type == "meta"
            value = torch.zeros(p.shape, dtype=dtype, device="cpu") if on_meta else p.detach().to(dtype)
            parameter = isinstance(p, nn.Parameter)
            setattr(module, key, nn.Parameter(value, p.requires_grad) if parameter else value)


def measured_state(mini: Published, rank: int | None) -> tuple[int, Plan]:
    """Bytes of all storages after one update of student and fake score, and the plan that says how many."""
    torch.manual_seed(0)
    teacher = mini.build().requires_grad_(False)
    parameters = parameter_count(teacher.parameters())
    if rank is None:
        student, fake = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
        networks = [teacher, student, fake, frozen_copy(student)]
        groups = [list(student.parameters()), list(fake.parameters())]
        plan = Plan(parameters)
    else:
        size = adapter_count(adapted_layers(teacher).values(), rank)
        teacher = with_adapters(teacher, rank, ("student", "fake", "average"))
        retype(teacher, torch.bfloat16)
        networks = [teacher]
        named = list(teacher.named_parameters())
        groups = [[p for key, p in named if f".{name}." in key] for name in ("student", "fake")]
        plan = Plan(parameters, size, lora=True, frozen_bits=16)
    vectors = [ParameterVector(group) for group in groups]
    optimizers: list[Optimizer] = []
    for vector in vectors:
        optimizers.append(AdamW([vector.theta], 1e-4, (0.0, 0.99), fused=True))
        for part in vector.parts:
            part.grad = torch.ones_like(part)
        vector.collect_gradient()
        optimizers[-1].step()
    held = [t for network in networks for t in network.parameters()]
    held += [t for vector in vectors for t in (vector.theta, vector.theta.grad) if t is not None]
    held += [t for o in optimizers for state in o.state.values() for t in state.values()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values()), plan


@dataclass(frozen=True)
class Check:
    """One comparison of the model with what was measured."""

    name: str
    model: float
    measured: float
    bound: float = 0.02
    """Of the error."""

    @property
    def error(self) -> float:
        """Relative."""
        return self.model / self.measured - 1


def checks() -> Iterator[Check]:
    """Of what stays, and of activations, for every miniature; of the peak of updates of the digits."""
    for mini in (shapes_teacher(), *MINIATURES):
        for rank in (None, 4):
            measured, plan = measured_state(mini, rank)
            yield Check(f"{mini.name}, {kind_of(rank)}: what stays", plan.need.state, measured)
        yield from _activations(mini)
    for words in ((), ("estimator.upstream=2", "dmd.fake_batch=2"), ("dmd.global_batch=64",)):
        yield update_check(words)


def _activations(mini: Published) -> Iterator[Check]:
    network = mini.build()
    plain, checkpointed = footprints(network, mini.call)
    assert checkpointed is not None
    for n in (1, 4):
        measured = kept_bytes(network, partial(mini.call, network, n))
        yield Check(f"{mini.name}: activations of {n}", plain.kept(n), measured)
    drop_gradients(network)
    for on in (False, True):
        counted = checkpointed if on else plain
        if on:
            network.enable_gradient_checkpointing()
        measured = peak_bytes(lambda: mini.call(network, 4).sum().backward())
        name = f"{mini.name}: a backward of 4{', checkpointed' if on else ''}"
        yield Check(name, counted.training(4), measured, bound=0.15)


def drop_gradients(network: nn.Module) -> None:
    """Lets no gradient stay after it is there."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(drop)


def update_check(words: Sequence[str]) -> Check:
    """What an update of `configs/dmd_carv.yaml` takes beyond what stays."""
    module = build(Path("configs/dmd_carv.yaml"), *words)
    objective, estimator, o = module.objective, module.estimator, module.options

    def call(network: nn.Module, n: int) -> Tensor:
        output: Tensor = network(torch.zeros(n, *objective.shape), torch.ones(n), torch.zeros(n).long())
        return output

    calls = Calls(
        *footprints(objective.student.network, call),
        upstream=estimator.upstream,
        draws=estimator.draws,
        fake_batch=o.fake_batch,
        fake_updates=o.fake_updates_per_student,
    )
    size = parameter_count(objective.student_parameters)
    need = Plan(size, accumulate=module.accumulate, calls=calls).need
    peaks: list[int] = []
    step = DMDModule.training_step

    def measured(self: DMDModule, batch: Any, batch_idx: int) -> None:
        peaks.append(peak_bytes(lambda: step(self, batch, batch_idx)))

    module.__class__ = type("Measured", (DMDModule,), {"training_step": measured})
    bare_fit(module, 3)  # from the second update on, the optimisers have their state
    name = f"digits, {' '.join(words) or 'as configured'}: an update"
    return Check(name, need.transient + need.activations, peaks[-1], bound=0.1)


def kind_of(rank: int | None) -> str:
    """Of training, by the rank of its adapters."""
    return "full" if rank is None else f"LoRA {rank}"


def check_table(checked: list[Check]) -> Table:
    """Model, measured and error of each."""
    cells = [
        (c.name, f"{c.model:,.0f}", f"{c.measured:,.0f}", f"{c.error:+.2%}", f"{c.bound:.0%}")
        for c in checked
    ]
    return Table("Bytes of miniatures", ("", "model", "measured", "error", "bound"), cells)
